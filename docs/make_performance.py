"""Put what benchmarks have written to docs/measured/ into the pages of docs/.

    python docs/make_performance.py

Between `<!-- measured: FILE.json -->` and `<!-- end -->` comes the command of that file and its table; where there is
no such file, what stands there stays.
"""

import json
import re
from pathlib import Path

DOCS = Path(__file__).parent
MEASURED = DOCS / "measured"
SLOT = re.compile(r"(<!-- measured: (\S+) -->\n)(.*?)(<!-- end -->)", flags=re.S)


def filled(page: str, folder: Path) -> str:
    """A page with the tables of the files in a folder, and with the drawings of the same name next to the folder."""

    def fill(slot: re.Match) -> str:
        begin, name, _, end = slot.groups()
        if not (folder / name).is_file():
            return slot[0]
        report = json.loads((folder / name).read_text(encoding="utf-8"))
        content = f"```bash\n{report['command']}\n```\n\n{report['markdown']}\n"
        drawing = Path(name).with_suffix(".svg")
        if (folder.parent / drawing).is_file():
            content += f"\n![The table as a drawing]({drawing})\n"
        return f"{begin}{content}{end}"

    return SLOT.sub(fill, page)


def main() -> None:
    for page in DOCS.glob("*.md"):
        text = page.read_text(encoding="utf-8")
        if filled(text, MEASURED) != text:
            page.write_text(filled(text, MEASURED), encoding="utf-8")


if __name__ == "__main__":
    main()
