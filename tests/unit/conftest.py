"""What every unit test is held to: none of them starts, or joins, a Ray.

Ray's calls start one when there is none, or join whichever the machine's notes name, which takes
seconds, and for ever where that one has ended. Ray reads the setting when it is imported.
"""

import os

os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"
