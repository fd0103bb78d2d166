"""Texts that a model may write and a reader of Markdown may take ages for: a part again and again, then an end."""

import random

PARTS = (
    " ", "  ", "\t", "\n", "- ", "1. ", "> ", "# ", "#", "# ", "*", "**", "** ", "a*", "*a", "_", "__", "_a", "~~",
    "~~a", "`", "`a", "``a`", "```", "```\n", "~~~\n", "[", "]", "[a", "[a]", "[a](", "[a](b", '[a](b "', '[a](b "c',
    "![", "![a](", "![a](b ", "(", ")", "<", "<https://", "<https://a ", "https://", "https://a.", "https://.",
    "http", "|", "| ", "|-", "-", "- - ", ":-", "a|", "\\", "\\ ", "a  ", "  \n", "* * ", "*a **b ", "_a __b ",
    "a_b_", "\u2028", "- \u2028", "  - a\n", "- a\n\n", "> > ", '```py\n"', "'''", '"""', '"\\', "/*", "\r",
    "|a|b|\n",
)  # fmt: skip
ENDS = ("", "x", "`", "\n", "*", ")", "|\n", "x\u2028y", "#", "](")
STARTS = ("", "# ", "- ", "```", "|\n", "**a", "> ", "```py\n", "a|b\n", "[a](")


def families(length):
    """Each part to a length, behind and before others, so that every place sees some of each."""
    for n, part in enumerate(PARTS):
        repeated = part * (length // len(part))
        yield STARTS[n % len(STARTS)] + repeated + ENDS[n % len(ENDS)]
        yield repeated + ENDS[(n + 1) % len(ENDS)]


def mixed(seed, count, length):
    """A few parts in turn, drawn by a seed."""
    draw = random.Random(seed)
    for _ in range(count):
        part = "".join(draw.choices(PARTS, k=draw.randint(2, 4)))
        yield draw.choice(STARTS) + part * (length // len(part)) + draw.choice(ENDS)
