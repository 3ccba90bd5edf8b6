"""Text of others on the terminal: neither markup nor control characters act."""

import io

from rich.console import Console

from forethought.cli.evaluate import results_table
from forethought.progress.harmless import harmless
from forethought.progress.reporter import Reporter


def test_what_is_said_is_neither_markup_nor_a_command():
    written = io.StringIO()
    Reporter(Console(file=written, force_terminal=True, width=80)).say("[/bold] a\x1b[2Jb [red]c")
    assert written.getvalue() == "[/bold] a[2Jb [red]c\n"


def test_a_category_is_shown_as_it_is_named():
    written = io.StringIO()
    result = {"name": "win_rate", "category": "[/bold]\x1b]0;x\x07", "value": 0.5}
    table = results_table([result | {"interval": [0.1, 0.9], "count": 12}])
    Console(file=written, width=100).print(table)
    assert "[/bold]]0;x" in written.getvalue()


def test_lines_and_tabs_stay():
    assert harmless("a\n\tb\x07\x9b") == "a\n\tb"
