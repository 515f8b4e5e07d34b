"""How a run without exact answers (`method=judged`) is told: its figures are mean qualities, by the
task's hidden measure, where those of other runs are shares of right answers."""

from __future__ import annotations

from collections.abc import Sequence

from rzero_ray.run.rows import Row

QUALITY_NOTE = (
    "Mean hidden quality, in [0, 1], of the Solver's answers to held-out requests: no phase reads "
    "it. The referee is measured on held-out pairs of answers that this quality orders, and "
    "divided where the order of presentation decides; the Challenger's requests are middling where "
    "the base model's answers to them have a mean quality of .3 to .7."
)


def quality_columns(k: int) -> dict[str, str]:
    """Return {heading: key of an evaluation} of the figures of all three roles."""
    return {
        "greedy quality": "greedy",
        f"mean@{k} quality": f"mean@{k}",
        f"maj@{k} quality": f"maj@{k}",
        "referee accuracy": "referee_accuracy",
        "referee divided": "referee_divided",
        "requests well-formed": "requests_well_formed",
        "requests middling": "requests_middling",
    }


def quality_reading(heldout: Sequence[Row], k: int) -> str:
    """Return, in words, by how much each role has changed from the base model on."""
    if len(heldout) < 2 or heldout[0]["iteration"] != 0:
        return "No iteration has been evaluated beside the base model: there is nothing to compare."
    first, last = heldout[0], heldout[-1]
    (low_0, high_0), (low_1, high_1) = first[f"mean@{k}_ci95"], last[f"mean@{k}_ci95"]
    overlap = low_1 <= high_0 and low_0 <= high_1
    doubt = "overlap, so this may be noise" if overlap else "do not overlap"

    def change(key: str) -> str:
        return f"from {first[key]:.2f} to {last[key]:.2f}"

    return (
        f"From the base to iteration {last['iteration']}, the mean hidden quality of the Solver's "
        f"answers went {change(f'mean@{k}')}; the 95% intervals {doubt}. The referee's accuracy "
        f"went {change('referee_accuracy')}, the share of the Challenger's requests that are "
        f"middling {change('requests_middling')}."
    )
