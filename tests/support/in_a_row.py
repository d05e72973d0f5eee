"""Command lines of llava-hh, one after the other in one process, for the launcher: a file of JSON lists of words."""

import json
import sys
from pathlib import Path

from llava_hh.__main__ import main

if __name__ == "__main__":
    for words in json.loads(Path(sys.argv[1]).read_text()):
        main(words)
