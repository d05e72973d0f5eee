"""All benchmarks, one after the other: their tables as one Markdown file, their JSON beside it.

A benchmark whose JSON is there is not run again, so a killed run goes on; delete the folder to begin anew.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from llava_hh.files.files import write_text

FOLDER = Path(__file__).resolve().parent
BENCHMARKS = ("attribution", "peers", "sources", "shortlists", "decoding", "recording", "memory", "chair", "scale")


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    flags.add_argument("names", nargs="*", default=BENCHMARKS, help=f"some of: {', '.join(BENCHMARKS)}")
    flags.add_argument("--out", type=Path, default=FOLDER.parent / "results" / "benchmarks", help="folder")
    args = flags.parse_args()
    if unknown := set(args.names) - set(BENCHMARKS):
        flags.error(f"no benchmark {min(unknown)!r}; there are {', '.join(BENCHMARKS)}")
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.names:
        result, table = args.out / f"{name}.json", args.out / f"{name}.md"
        if not result.is_file():
            print(f"{name} ...", flush=True)
            command = [sys.executable, FOLDER / f"{name}.py", "--json", result.resolve()]
            done = subprocess.run(list(map(str, command)), check=True, stdout=subprocess.PIPE, text=True)
            write_text(table, f"## {name}\n\n{done.stdout.strip()}\n")
        print(table.read_text())
    tables = [(args.out / f"{name}.md").read_text() for name in BENCHMARKS if (args.out / f"{name}.md").is_file()]
    write_text(args.out / "all.md", "\n".join(tables))
    print(args.out / "all.md")


if __name__ == "__main__":
    main()
