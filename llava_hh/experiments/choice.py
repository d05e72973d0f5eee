"""The choice of AD-HH's top k and threshold in a comparison: lowest CHAIR_i at held recall and mentions."""

from collections.abc import Mapping, Sequence


def points_of(summary: Mapping) -> list[dict]:
    """The metrics of each AD-HH setting of a summary, with its top k and threshold.

    Raises:
        ValueError: there is none.
    """
    points = []
    for name, described in summary["settings"]["methods"].items():
        edits = described["interventions"]
        if len(edits) == 1 and edits[0]["kind"] == "DeactivateText" and name in summary["methods"]:
            entry = {
                key: value for key, value in summary["methods"][name].items() if key not in ("minus_greedy", "label")
            }
            points.append({"top_k": len(edits[0]["heads"]), "threshold": edits[0]["threshold"], **entry})
    if not points:
        raise ValueError("--choose: no adhh among --methods")
    return points


def choose(points: Sequence[dict], greedy: Mapping, recall_loss: float, mentions_change: float) -> dict | None:
    """The point of lowest CHAIR_i among those that keep recall and mentions; None if none does better than greedy."""
    kept = [
        point
        for point in points
        if point["CHAIRi"] < greedy["CHAIRi"]  # never so where greedy decoding mentions nothing
        and point["recall"] >= greedy["recall"] - recall_loss
        and abs(point["mentions"] / greedy["mentions"] - 1) <= mentions_change
    ]
    return min(kept, key=lambda point: point["CHAIRi"], default=None)


def choice_of(summary: Mapping, recall_loss: float, mentions_change: float) -> dict:
    """The content of choice.json: all points, greedy decoding, and the chosen one by the rule that stands beside it."""
    points, greedy = points_of(summary), summary["methods"]["greedy"]
    rule = f"lowest CHAIR_i with recall down by at most {recall_loss:g}, mentions by {mentions_change:g}"
    return {
        "greedy": greedy,
        "chosen": choose(points, greedy, recall_loss, mentions_change),
        "rule": rule,
        "points": points,
        "settings": summary["settings"],
        "run": summary["run"],
    }
