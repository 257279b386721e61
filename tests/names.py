"""Names that markup languages would read as something else."""

AWKWARD = {
    "markup": "[x] $a$ <b> | _ 🐝",
    "tags": "[/x] </td> &lt; :bee: `c` **d** ~~e~~ \\$f\\| __g__",
    "two lines": "first\nsecond [red]",
    "long": "very long " * 20 + "end",
    "right to left": "שלום [b] عربي $1$",
    "hidden": "_a_ $5^$",
    "blocks": "# 1",
    "list": "1. one",
}
"""A name of each kind; the first has a letter from every medium."""
