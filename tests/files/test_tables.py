import csv
import io

import pytest

from llava_hh.files.tables import Estimate, Table, markdown_table, print_table

TABLE = Table(
    ["method", "CHAIR_i %", "p"],
    [["a|b", Estimate(0.12345, [0.1, 0.15], 100), ""], ["50% & more_or\nless", "none", "<= 0.0007"]],
    "In brackets: 95%.",
)


def test_markdown_escapes_what_would_end_a_cell_and_has_its_note_below():
    assert TABLE.markdown().splitlines() == [
        "| method | CHAIR_i % | p |",
        "|---|---|---|",
        r"| a\|b | 12.3 (10.0 to 15.0) |  |",
        "| 50% & more_or less | none | <= 0.0007 |",
        "",
        "In brackets: 95%.",
    ]
    assert markdown_table(["a"], []) == "| a |\n|---|"


def test_csv_has_value_and_interval_as_numbers_in_columns_of_their_own():
    rows = list(csv.reader(io.StringIO(TABLE.csv())))
    assert rows == [
        ["method", "CHAIR_i %", "CHAIR_i % low", "CHAIR_i % high", "p"],
        ["a|b", "12.3", "10.0", "15.0", ""],
        ["50% & more_or\nless", "none", "", "", "<= 0.0007"],
    ]
    assert Table(["a", "b"], []).csv() == "a,b"


def test_latex_escapes_every_sign_that_means_something_there():
    assert TABLE.latex().splitlines() == [
        "% In brackets: 95%.",
        r"\begin{tabular}{lll}",
        r"\hline",
        r"method & CHAIR\_i \% & p \\",
        r"\hline",
        r"a\textbar{}b & 12.3 (10.0 to 15.0) &  \\",
        r"50\% \& more\_or less & none & $\le$ 0.0007 \\",
        r"\hline",
        r"\end{tabular}",
    ]
    [line] = Table([r"\ ~ ^ { } $ # > <"], []).latex().splitlines()[2:3]
    signs = [r"\textbackslash{}", r"\textasciitilde{}", r"\textasciicircum{}", r"\{", r"\}", r"\$", r"\#"]
    assert line == " ".join([*signs, r"\textgreater{}", r"\textless{}", "\\\\"])


def test_estimates_have_a_sign_and_digits_of_their_own_form():
    assert Estimate(-0.00326, [-0.01, 0.002], form="+.4f") == "-0.0033 (-0.0100 to +0.0020)"
    assert Estimate(0.5, [0.4, 0.6], 100, "+.1f", ends=".0f") == "+50.0 (40 to 60)"


def test_a_row_with_a_cell_too_few_is_refused():
    with pytest.raises(ValueError, match="row 2 of a table has 1 cells; expected 2"):
        Table(["a", "b"], [["1", "2"], ["3"]])


def test_what_is_printed_as_csv_is_the_table_alone(capsys):
    print_table(TABLE, "csv")
    printed = capsys.readouterr()
    assert printed.out == TABLE.csv() + "\n" and printed.err == "In brackets: 95%.\n"
    print_table(TABLE, "latex")
    print_table(TABLE)
    assert capsys.readouterr().out == f"{TABLE.latex()}\n{TABLE.markdown()}\n"
    with pytest.raises(ValueError, match="'html' is not known; expected one of: markdown, csv, latex"):
        print_table(TABLE, "html")
