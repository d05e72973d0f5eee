"""nocaps in both layouts, small enough to know by heart: three images of the out domain and one of the near domain."""

import json
from pathlib import Path

CANS, STREET, SHOES, NEAR = "003232584a062b07", "00a1b2c3d4e5f607", "0f00000000000001", "0123456789abcdef"
CAPTIONS = {
    CANS: ["Two tin cans beside a cup.", "Drinks on a table."],
    STREET: ["A woman waits for the bus."],
    SHOES: [],
    NEAR: ["A dog."],
}
LABELS = {CANS: ["Tin can", "Drink"], STREET: ["Taxi", "Sky"], SHOES: ["Footwear"], NEAR: ["Dog"]}
CODES = {"Tin can": "/m/01", "Drink": "/m/02", "Taxi": "/m/03", "Sky": "/m/04", "Footwear": "/g/05", "Dog": "/m/06"}
LABEL_FILE = "validation-annotations-human-imagelabels-boxable.csv"
CLASS_FILE = "oidv7-class-descriptions-boxable.csv"
BOX_FILE = "validation-annotations-bbox.csv"
CAPTION_FILE = "nocaps_val_4500_captions.json"


def write_captions_file(folder: Path) -> Path:
    """nocaps' captions file alone: the near-domain image first, the others in the order of LABELS."""
    folder.mkdir(parents=True, exist_ok=True)
    order = [NEAR, CANS, STREET, SHOES]
    images = [
        {
            "id": number,
            "open_images_id": image_id,
            "file_name": f"{image_id}.jpg",
            "domain": "near-domain" if image_id == NEAR else "out-domain",
        }
        for number, image_id in enumerate(order)
    ]
    rows = [(number, caption) for number, image_id in enumerate(order) for caption in CAPTIONS[image_id]]
    annotations = [{"id": place, "image_id": number, "caption": text} for place, (number, text) in enumerate(rows)]
    (folder / CAPTION_FILE).write_text(json.dumps({"images": images, "annotations": annotations}))
    return folder


def write_official(folder: Path) -> Path:
    """The captions file, image-level labels (with one that is not there), boxes and names of classes.

    "Footwear" stands among the boxes only, and a label of another image is in the file too.
    """
    write_captions_file(folder)
    names = [f"{code},{name}" for name, code in CODES.items()]
    (folder / CLASS_FILE).write_text("\n".join(["LabelName,DisplayName", *names]) + "\n")
    rows = [(image_id, label, 1) for image_id, own in LABELS.items() for label in own if label != "Footwear"]
    rows += [(STREET, "Dog", 0), ("ffffffffffffffff", "Dog", 1)]
    lines = [f"{image_id},verification,{CODES[label]},{there}" for image_id, label, there in rows]
    (folder / LABEL_FILE).write_text("\n".join(["ImageID,Source,LabelName,Confidence", *lines]) + "\n")
    box = f"{SHOES},xclick,{CODES['Footwear']},1,0.1,0.2,0.3,0.4"
    (folder / BOX_FILE).write_text(f"ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax\n{box}\n")
    return folder


def write_collected(folder: Path) -> Path:
    """The paper's authors' file of the out domain."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {"image_id": image_id, "labels": LABELS[image_id], "human_captions": CAPTIONS[image_id]}
        for image_id in (CANS, STREET, SHOES)
    ]
    (folder / "nocaps_out-domain_collected_gt.json").write_text(json.dumps(rows))
    return folder
