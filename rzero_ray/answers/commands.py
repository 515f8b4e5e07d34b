r"""Write an answer's LaTeX commands in one way: every argument in braces, one name for each thing,
and nothing that only looks different (colour, bold type, spacing, sizes of brackets).

What stands in `\text{}` stays quoted, because words are no product of letters.
"""

from __future__ import annotations

import re

MAX_DEPTH = 40
"""Deepest nesting of braces that is rewritten; deeper text stays as it is."""


def names(text: str) -> frozenset[str]:
    """Return the words of a text as a set."""
    return frozenset(text.split())


_TOKEN = re.compile(r"\\[a-zA-Z]+\*?|\\.|[0-9]+|\s+|.", re.DOTALL)
_TEXT = names(
    "text textbf textit textrm textnormal textsf texttt textup textsc mathrm mathsf "
    "mathtt mathit mbox hbox operatorname emph"
)
_KEPT_CONTENT = names(
    "boxed fbox framebox underline boldsymbol bm mathbf pmb mathop mathord mathnormal "
    "mathring mathstrut smash ensuremath"
)
_KEPT_SECOND = frozenset({"textcolor", "colorbox"})
_DROPPED_CONTENT = names("phantom hphantom vphantom hspace vspace color label tag")
_DROPPED = names(
    "left right big bigl bigr bigm Big Bigl Bigr Bigm bigg biggl biggr biggm Bigg Biggl "
    "Biggr Biggm displaystyle textstyle scriptstyle limits nolimits bf it rm sf tt "
    "bfseries itshape normalfont middle strut null relax par newline hfill centering "
    "therefore because"
)
_SPACES = frozenset({"quad", "qquad", "enspace", "thinspace", "space"})
_RENAMED = {
    **dict.fromkeys(("leq", "leqslant", "leqq"), "le"),
    **dict.fromkeys(("geq", "geqslant", "geqq"), "ge"),
    **dict.fromkeys(("dfrac", "tfrac", "cfrac", "nicefrac", "sfrac"), "frac"),
    **dict.fromkeys(("dbinom", "tbinom"), "binom"),
    **{
        "neq": "ne",
        "varnothing": "emptyset",
        "tg": "tan",
        "ctg": "cot",
        "arctg": "arctan",
        "cosec": "csc",
    },
    **{"longrightarrow": "to", "rightarrow": "to", "implies": "Rightarrow"},
    **{"Leftrightarrow": "iff", "leftrightarrow": "iff", "Longrightarrow": "Rightarrow"},
    **{"wedge": "land", "vee": "lor", "lnot": "neg", "simeq": "approx", "thickapprox": "approx"},
    **{"varepsilon": "epsilon", "varphi": "phi", "vartheta": "theta", "backslash": "setminus"},
    **{"dots": "ldots", "cdots": "ldots", "dotsc": "ldots", "dotsb": "ldots", "mod": "bmod"},
    **{"overrightarrow": "vec", "colon": "mid"},
}
_SYMBOLS = {
    **{"lvert": "|", "rvert": "|", "vert": "|", "lbrace": r"\{", "rbrace": r"\}", "lt": "<"},
    **{"gt": ">", "ast": "*", "lbrack": "[", "rbrack": "]", "degree": r"^\circ", "prime": "'"},
    **{"lg": r"\log_{10} ", "percent": r"\%", "pounds": "£", "euro": "€"},
}
_NUM_ARGUMENTS = {"frac": 2, "binom": 2, "sqrt": 1}
_NUM_ARGUMENTS |= dict.fromkeys(
    ("mathbb", "mathcal", "vec", "bar", "hat", "widehat", "tilde", "dot", "ddot", "overline"), 1
)
_NO_SPACE = frozenset({"!", ",", "/"})
_JOINS_DIGITS = frozenset({":", ";", ">"})

_Node = str | list["_Node"]


def _tree(text: str) -> list[_Node] | None:
    """Return the tokens with brace groups as lists, or None where they nest too deep. Braces
    without a partner are dropped."""
    root: list[_Node] = []
    stack = [root]
    for token in _TOKEN.findall(text):
        if token == "{":
            if len(stack) > MAX_DEPTH:
                return None
            group: list[_Node] = []
            stack[-1].append(group)
            stack.append(group)
        elif token == "}":
            if len(stack) > 1:
                stack.pop()
        else:
            stack[-1].append(token)
    return root


class _Writer:
    """Writes the nodes of one group in the normal notation."""

    def __init__(self, nodes: list[_Node]) -> None:
        self._nodes = nodes
        self._at = 0
        self._out: list[str] = []

    def write(self) -> str:
        for command, name in (("\\over", "frac"), ("\\choose", "binom")):
            if command in self._nodes:
                at = self._nodes.index(command)
                above, below = _write(self._nodes[:at]), _write(self._nodes[at + 1 :])
                return f"\\{name}{{{above.strip()}}}{{{below.strip()}}}"
        while self._at < len(self._nodes):
            self._write_node(self._take())
        return "".join(self._out)

    def _take(self) -> _Node:
        node = self._nodes[self._at]
        self._at += 1
        return node

    def _skip_space(self) -> None:
        while self._at < len(self._nodes) and str(self._nodes[self._at]).isspace():
            self._at += 1

    def _argument(self, whole_number: bool = False) -> str:
        """Take one argument: a group, a command with its own arguments, or one character."""
        self._skip_space()
        if self._at >= len(self._nodes):
            return ""
        node = self._take()
        if isinstance(node, list):
            return _write(node).strip()
        if node[0].isdigit() and len(node) > 1 and not whole_number:
            self._nodes[self._at - 1] = node[1:]
            self._at -= 1
            return node[0]
        if whole_number and node == "-" and self._next_is_digits():
            return "-" + str(self._take())
        rest = _Writer(self._nodes)
        rest._at = self._at
        rest._write_node(node)
        self._at = rest._at
        return "".join(rest._out).strip()

    def _next_is_digits(self) -> bool:
        return self._at < len(self._nodes) and str(self._nodes[self._at]).isdigit()

    def _write_node(self, node: _Node) -> None:
        if isinstance(node, list):
            self._out.append("{" + _write(node).strip() + "}")
        elif len(node) > 1 and node[0] == "\\" and node[1].isalpha():
            self._write_command(node[1:].rstrip("*"))
        elif node[0] == "\\":
            self._write_escape(node)
        elif node in "^_":
            self._write_script(node)
        else:
            self._out.append(" " if node.isspace() or node == "~" else node)

    def _write_script(self, mark: str) -> None:
        argument = self._argument(whole_number=True)
        if mark == "^" and argument == "\\circ":
            self._out.append(r"^\circ ")
        elif mark == "^" and argument and not argument.strip("'"):
            self._out.append(argument)
        else:
            self._out.append(f"{mark}{{{argument}}}")

    def _write_escape(self, node: str) -> None:
        char = node[1:]
        if char in _NO_SPACE:
            return
        if char in _JOINS_DIGITS and self._out and self._out[-1][-1:].isdigit():
            if not self._next_is_digits():
                self._out.append(" ")
        elif char.isspace() or char in _JOINS_DIGITS or not char:
            self._out.append(" ")
        elif char in "()[]":
            return  # math mode
        else:
            self._out.append("\\\\ " if char == "\\" else node)

    def _write_command(self, name: str) -> None:
        name = _RENAMED.get(name, name)
        if name in _TEXT:
            self._write_text()
        elif name in _KEPT_CONTENT:
            content = self._argument()
            self._out.append(content if len(content) < 2 else "{" + content + "}")
        elif name in _KEPT_SECOND:
            self._argument()
            self._out.append(self._argument())
        elif name in _DROPPED_CONTENT:
            self._argument()
        elif name in _DROPPED:
            self._drop_delimiter(name)
        elif name in _SPACES:
            self._out.append(" ")
        elif name in _SYMBOLS:
            self._out.append(_SYMBOLS[name])
        elif name in _NUM_ARGUMENTS:
            self._write_function(name)
        else:
            self._out.append(f"\\{name}" if name in ("begin", "end") else f"\\{name} ")

    def _drop_delimiter(self, name: str) -> None:
        self._skip_space()
        is_bracket = name in ("left", "right") and self._at < len(self._nodes)
        if is_bracket and self._nodes[self._at] == ".":
            self._at += 1

    def _write_function(self, name: str) -> None:
        self._out.append(f"\\{name}")
        self._skip_space()
        if name == "sqrt" and self._at < len(self._nodes) and self._nodes[self._at] == "[":
            while self._at < len(self._nodes):
                node = self._take()
                self._out.append("{" + _write(node) + "}" if isinstance(node, list) else node)
                if node == "]":
                    break
        self._out += ["{" + self._argument() + "}" for _ in range(_NUM_ARGUMENTS[name])]

    def _follows_digit(self) -> bool:
        """Say whether a number stands before: `10\\text{ min}` are minutes."""
        return "".join(self._out[-2:]).rstrip()[-1:].isdigit()

    def _write_text(self) -> None:
        content = " ".join(self._argument().translate(_NO_BRACES).split())
        if _OPTION.fullmatch(content):
            self._out.append(f" {content} ")
        elif content in _NAMED_OPERATORS and not self._follows_digit():
            self._out.append(f"\\{content} ")
        elif len(content) == 1 or not _HAS_LETTERS.search(content):
            # \mathrm{e}, \text{(5)}: quoted or not, it is the same.
            self._out.append(f" {content} ")
        else:
            self._out.append(f" \\text{{{content}}} ")


_NAMED_OPERATORS = names("lcm gcd max min sin cos tan cot sec csc log ln exp det cis")
_NO_BRACES = str.maketrans("", "", "{}")
_OPTION = re.compile(r"\(?[A-J]\)?[.:]?")
_HAS_LETTERS = re.compile(r"[^\W\d_]")


def _write(nodes: list[_Node]) -> str:
    return _Writer(list(nodes)).write()


def rewritten(text: str) -> str:
    """Return a text with its commands in the normal notation."""
    tree = _tree(text)
    return text if tree is None else _write(tree)
