"""What is said of mini's scenes: captions, and conversations for instruction tuning. Nothing in them is false.

Every object that is named is drawn and annotated, numbers and sides are those of the annotations, no caption names a
thing twice, and an answer that denies an object doesn't name it.
"""

import random
from collections.abc import Callable, Sequence

from llava_hh.mini.world import CATEGORIES, IMAGE_PIXELS, PARTNERS, SCENES, Drawn, Scene
from llava_hh.models.questions import DESCRIBE

Turn = tuple[str, str]

# Openings by the order in which objects are named, middles and endings. The commonest first word of an ending has half
# of the endings, that of a middle a third of the middles: greedy decoding stops about when stopping is likelier.
_READING = """
The image shows {place} with {things}. | This is {place} with {things}. |
The scene is {place}, where there {is_} {things}. | The image features {things} in {place}. |
In this picture of {place}, {things} can be seen. | Here we see {place}; it has {things}. |
The view shows {place}, and it contains {things}. | The photo captures {things} in {place}.
"""
_BACKWARDS = """
From the bottom up, the picture of {place} holds {things}. | Beginning at the lower end, {place} shows {things}.
"""
_BY_SIZE = """
By size, the picture of {place} has {things} first. | The larger things in {place} are {things}.
"""
_MIDDLES = """
There {is_} also {things} nearby. | There {is_} {things} as well. | Then there {is_} {things}. |
Next, {things} can be seen. | A little further on, there {is_} {things}. | A closer look shows {things}.
"""
_SIDES = """On the {side}, there {is_} {things}. | On the {side} one finds {things}."""
_REMARKS = """The light is soft. | The view is plain. | The lines are simple."""
_ENDINGS = """
Overall, the mood is calm. | Overall, it feels like an ordinary day. | Overall, everything looks clean and simple. |
Overall, it is a quiet view. | Soft light fills the picture. | Soft colors set the mood. | Such a view is easy to like.
"""
READING, BACKWARDS, BY_SIZE, MIDDLES, SIDES, REMARKS, ENDINGS = (
    tuple(map(str.strip, lines.split("|")))
    for lines in (_READING, _BACKWARDS, _BY_SIZE, _MIDDLES, _SIDES, _REMARKS, _ENDINGS)
)
ORDERS: dict[tuple[str, ...], Callable[[Scene], list[Drawn]]] = {
    READING: lambda scene: in_reading_order(scene),
    BACKWARDS: lambda scene: sorted(scene.objects, key=lambda drawn: (-drawn.place[0], -drawn.place[1])),
    BY_SIZE: lambda scene: sorted(scene.objects, key=lambda drawn: -drawn.area),
}
SHARES = (0.8, 0.1, 0.1)  # of the captions
NUMBERS = {2: "two", 3: "three"}
IRREGULAR = {"person": "people", "knife": "knives", "bench": "benches", "couch": "couches", "mouse": "mice"}
SIDE_MARGIN = 0.12  # of the picture, around its middle: no side is said of what lies there

_LONG = f"""
{DESCRIBE} | {DESCRIBE} | Describe this picture at length. | What does the image show? Describe all of it. |
Give a full description of the scene. | Tell me everything that can be seen here. | Write a detailed caption.
"""
_SHORT = "Describe the image in one sentence. | Write a short caption. | What is the main content? Be brief."
_LIST = "What is in the picture? | Which objects can be seen? | List the things in this image."
_IS_THERE = "Is there {thing} in the image? | Is there {thing} in the picture? | Can you see {thing} here?"
_HOW_MANY = "How many {things} are there? | How many {things} are in the image?"
_WHERE = "Where is the {thing}? | On which side is the {thing}?"
LONG, SHORT, LIST, IS_THERE, HOW_MANY, WHERE = (
    tuple(map(str.strip, lines.split("|"))) for lines in (_LONG, _SHORT, _LIST, _IS_THERE, _HOW_MANY, _WHERE)
)
ONE_WORD = "\nAnswer the question using a single word or phrase."  # LLaVA-1.5's line, after the first question


def caption(scene: Scene, rng: random.Random) -> str:
    """Name every object of a scene once, in one to seven sentences, and end with a remark."""
    openings, ordered = rng.choices(list(ORDERS.items()), SHARES)[0]
    left = ordered(scene)
    groups = []
    while left:
        groups.append(left[: rng.choice((1, 2, 2, 3))])
        left = left[len(groups[-1]) :]
    place = article(scene.type_name)
    sentences = [_filled(rng.choice(openings), groups[0], place=place)]
    for group in groups[1:]:
        if rng.random() < 0.1:
            sentences.append(rng.choice(REMARKS))
        sides = {side_of(drawn) for drawn in group}
        side = sides.pop() if len(sides) == 1 and rng.random() < 0.3 else None
        template = rng.choice(SIDES if side in ("left", "right") else MIDDLES)
        sentences.append(_filled(template, group, side=side))
    return " ".join([*sentences, rng.choice(ENDINGS)])


def _filled(template: str, group: Sequence[Drawn], **more: str | None) -> str:
    verb = "are" if len(group[0].squares) > 1 else "is"
    return template.format(things=enumerate_things(group), is_=verb, **more)


def in_reading_order(scene: Scene) -> list[Drawn]:
    """The objects by rows, each from left to right; what came along right after its companion, wherever it lies."""
    place = {drawn.category: drawn.place for drawn in scene.objects}
    return sorted(scene.objects, key=lambda drawn: (place[drawn.brought or drawn.category], drawn.brought is not None))


def side_of(drawn: Drawn) -> str | None:
    """Where an object lies: "left", "right", "top" or "bottom"; None near the middle, or of several."""
    across, down = (middle / IMAGE_PIXELS - 0.5 for middle in drawn.centre)
    if len(drawn.squares) > 1 or max(abs(across), abs(down)) < SIDE_MARGIN:
        return None
    if abs(across) >= abs(down):
        return "left" if across < 0 else "right"
    return "top" if down < 0 else "bottom"


def conversation(scene: Scene, rng: random.Random) -> list[Turn]:
    """One to eight questions about a scene with their answers.

    The kinds are those of llava_v1_5_mix665k: a description, mostly alone or with questions after it; a conversation in
    sentences; questions that are answered in a word, as LLaVA-1.5's line after the first one asks.
    """
    kind = rng.random()
    if kind < 0.5:
        turns = [(rng.choice(LONG), caption(scene, rng))]
        return turns + questions(scene, rng, rng.choice((0, 1, 2)), in_a_word=False)
    if kind < 0.57:
        return [(rng.choice(SHORT), short_caption(scene, rng)), *questions(scene, rng, 2, in_a_word=False)]
    if kind < 0.64:
        listed = enumerate_things(in_reading_order(scene))
        return [(rng.choice(LIST), f"{listed[0].upper()}{listed[1:]}."), *questions(scene, rng, 2, in_a_word=False)]
    (question, answer), *more = questions(scene, rng, rng.choice((6, 7, 8)), in_a_word=True)
    return [(question + ONE_WORD, answer), *more]


def short_caption(scene: Scene, rng: random.Random) -> str:
    """One sentence that names the largest objects."""
    largest = sorted(scene.objects, key=lambda drawn: -drawn.area)[:3]
    shown = [drawn for drawn in in_reading_order(scene) if drawn in largest]
    return _filled(rng.choice(READING), shown, place=article(scene.type_name))


def questions(scene: Scene, rng: random.Random, n: int, in_a_word: bool) -> list[Turn]:
    """Turns about different objects: most ask whether there is one, the rest how many and where."""
    asked: set[str] = set()
    turns = []
    for _ in range(n):
        kind = rng.choice(("is there", "is there", "is there", "how many", "where"))
        placed = [drawn for drawn in scene.objects if side_of(drawn) and drawn.category not in asked]
        if kind == "where" and placed:
            drawn = rng.choice(placed)
            category, side = drawn.category, side_of(drawn)
            question = rng.choice(WHERE).format(thing=category)
            answer = (
                side.capitalize() if in_a_word else f"It is {'on' if side in ('left', 'right') else 'at'} the {side}."
            )
        else:
            category, count = _asked_about(scene, rng, asked)
            if kind == "how many":
                question = rng.choice(HOW_MANY).format(things=plural(category))
                said = {0: "none", 1: "one", **NUMBERS}[count]
                answer = str(count) if in_a_word else f"There {'is' if count == 1 else 'are'} {said}."
            else:
                question = rng.choice(IS_THERE).format(thing=article(category))
                answer = "Yes" if count else "No"
                if not in_a_word:
                    answer += ", there is." if count else ", there is not."
        asked.add(category)
        turns.append((question, answer))
    return turns


def _asked_about(scene: Scene, rng: random.Random, asked: set[str]) -> tuple[str, int]:
    """A category and how many of it are drawn: half of the time none, and then often one that would fit."""
    counts = {drawn.category: len(drawn.squares) for drawn in scene.objects}
    there = [category for category in counts if category not in asked]
    if there and rng.random() < 0.5:
        category = rng.choice(there)
        return category, counts[category]
    partners = [PARTNERS[category] for category in counts if category in PARTNERS]
    choices = rng.choice((partners, SCENES[scene.type_name].categories, CATEGORIES))
    left = [category for category in choices if category not in counts and category not in asked]
    left = left or [category for category in CATEGORIES if category not in counts and category not in asked]
    return rng.choice(left), 0


def enumerate_things(objects: Sequence[Drawn]) -> str:
    """`a fork, two apples and a cup`."""
    words = [counted(drawn.category, len(drawn.squares)) for drawn in objects]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def counted(category: str, count: int) -> str:
    return article(category) if count == 1 else f"{NUMBERS[count]} {plural(category)}"


def plural(noun: str) -> str:
    return IRREGULAR.get(noun, f"{noun}s")


def article(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"
