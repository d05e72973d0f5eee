"""The choice of AD-HH's top k and threshold in a comparison: lowest CHAIR_i at held recall and few repetitions."""

from collections.abc import Mapping, Sequence

from llava_hh.decoding.making import Member
from llava_hh.decoding.method import Unavailable


def points_of(summary: Mapping) -> list[dict]:
    """The metrics of each AD-HH setting of a summary, with its top k and threshold."""
    points, methods = [], summary["methods"]
    for name, described in summary["settings"]["methods"].items():
        entry, edits = methods.get(name, {}), described["interventions"]
        if entry.get("kind") == "adhh" and len(edits) == 1 and entry["n"] == methods["greedy"]["n"]:
            kept = {key: value for key, value in entry.items() if key not in ("minus_greedy", "label")}
            points.append({"top_k": len(edits[0]["heads"]), "threshold": edits[0]["threshold"], **kept})
    return points


def see_choosable(members: Sequence[Member]) -> None:
    """Check before any work that there are settings to choose among.

    Raises:
        ValueError: no adhh on all images, or adhh with several head lists, which choice.json could not tell apart.
    """
    methods = [member.method for member in members if member.method.kind == "adhh" and not member.limit]
    edits = [method.interventions[0] for method in methods if not isinstance(method, Unavailable)]
    if not edits:
        raise ValueError("--choose: no adhh on all images among --methods")
    longest = max((edit.heads for edit in edits), key=len)
    if any(edit.heads != longest[: len(edit.heads)] for edit in edits):
        raise ValueError("--choose: adhh with heads of several lists; expected one list")


def choose(points: Sequence[dict], greedy: Mapping, recall_loss: float, repeats_rise: float) -> dict | None:
    """The point of lowest CHAIR_i among those that keep recall and repeat no more; None if none is below greedy."""
    kept = [
        point
        for point in points
        if point["CHAIRi"] < greedy["CHAIRi"]  # never so where greedy decoding mentions nothing
        and point["recall"] >= greedy["recall"] - recall_loss
        and point["repeated"] <= greedy["repeated"] + repeats_rise
    ]
    return min(kept, key=lambda point: point["CHAIRi"], default=None)


def choice_of(summary: Mapping, recall_loss: float, repeats_rise: float) -> dict:
    """The content of choice.json: all points, greedy decoding, and the chosen one by the rule that stands beside it."""
    points, greedy = points_of(summary), summary["methods"]["greedy"]
    chosen = choose(points, greedy, recall_loss, repeats_rise)
    kept = f"recall down by at most {recall_loss:g}, repeated mentions up by at most {repeats_rise:g}"
    rule = f"lowest CHAIR_i with {kept}"
    made = {key: summary[key] for key in ("settings", "run")}
    return {"greedy": greedy, "chosen": chosen, "rule": rule, "points": points, **made}
