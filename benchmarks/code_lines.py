"""Code lines of the product's Python by package: lines that hold tokens, without blanks, comments and docstrings."""

import ast
import io
import tokenize
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PRODUCT = ("llava_hh", "baselines", "newer_models")
NO_CODE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def code_lines(source: str) -> int:
    """Lines of Python source that hold code; a string over several lines counts each of them, a docstring none."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in NO_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            lines.difference_update(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return len(lines)


def main() -> None:
    counts: Counter[str] = Counter()
    for package in PRODUCT:
        for path in (ROOT / package).rglob("*.py"):
            folder = path.relative_to(ROOT).parts[:-1][:2]
            counts["/".join(folder)] += code_lines(path.read_text(encoding="utf-8"))
    for folder, count in counts.most_common():
        print(f"{count:6,}  {folder}")
    print(f"{counts.total():6,}  in all")


if __name__ == "__main__":
    main()
