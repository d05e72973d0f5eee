"""A folder in the layout of COCO 2014 as the archives that cocodataset.org has."""

import io
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

SPLITS = ("train2014", "val2014")


def zipped(files: dict[str, bytes]) -> bytes:
    """An archive of these files."""
    content = io.BytesIO()
    with ZipFile(content, "w", ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return content.getvalue()


def archives_of(coco: Path) -> dict[str, bytes]:
    """The archives by their path on the server, with folders and files beside what is wanted, as COCO's have them."""
    made = {}
    for split in SPLITS:
        images = {f"{split}/{path.name}": path.read_bytes() for path in sorted((coco / split).iterdir())}
        made[f"/zips/{split}.zip"] = zipped({f"{split}/": b"", **images})
    told = {f"annotations/{path.name}": path.read_bytes() for path in sorted((coco / "annotations").iterdir())}
    made["/annotations/annotations_trainval2014.zip"] = zipped(
        {**told, "annotations/person_keypoints_val2014.json": b""}
    )
    return made
