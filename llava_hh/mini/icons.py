"""Drawings of the 38 COCO categories of mini's world, as lists of shapes in the unit square."""

from functools import lru_cache

from PIL import Image, ImageDraw

SPRITE_PIXELS = 192

# A category and its shapes, back to front. A shape is its kind, its colour and its coordinates; a comma begins another
# shape of that kind and colour. rect, oval: x0 y0 x1 y1; poly: x y pairs; line: width, x y pairs.
DRAWINGS = """
apple: oval #c8202a .1 .25 .62 .95; oval #d62a30 .38 .25 .9 .95; line #5a3a1a .06 .5 .32 .56 .06;
    oval #4caf50 .55 .06 .85 .2
backpack: rect #1b4f9c .2 .15 .8 .95; oval #1b4f9c .2 .02 .8 .4; rect #f2b632 .28 .55 .72 .85;
    line #10305f .06 .12 .35 .12 .8, .06 .88 .35 .88 .8
banana: poly #f5d327 .05 .35 .2 .7 .5 .9 .95 .75 .9 .62 .55 .68 .32 .55 .17 .3; rect #5b4a12 .04 .25 .17 .37
bench: rect #8a5a2b .03 .2 .97 .32, .03 .38 .97 .5; rect #6e4520 0 .58 1 .7; rect #333333 .1 .2 .16 .95, .84 .2 .9 .95
bicycle: oval #222222 0 .45 .45 .9; oval #f4f4f4 .07 .52 .38 .83; oval #222222 .55 .45 1 .9;
    oval #f4f4f4 .62 .52 .93 .83; line #1ea7a1 .06 .22 .67 .4 .3 .72 .32 .77 .67,
    .06 .4 .3 .52 .67 .72 .32 .68 .18 .85 .18
bird: oval #3f7fd6 .15 .4 .75 .8, .58 .2 .88 .52; poly #f29a1f .86 .32 1 .38 .86 .44; poly #24508c 0 .35 .35 .5 .12 .65,
    .3 .5 .6 .5 .35 .08; oval #ffffff .72 .28 .8 .36
book: rect #7d1f3c .12 .05 .88 .95; rect #f7f1dd .8 .1 .9 .9; rect #e7c55a .27 .2 .72 .3, .27 .36 .6 .42;
    rect #591228 .12 .05 .2 .95
bowl: oval #5d86c5 .02 .2 .98 .6; oval #e9f0fa .1 .27 .9 .53; poly #5d86c5 .02 .42 .98 .42 .72 .9 .28 .9
car: poly #c62828 0 .75 0 .5 .2 .47 .35 .22 .7 .22 .84 .47 1 .52 1 .75; poly #bfe3f7 .28 .47 .38 .28 .5 .28 .5 .47,
    .54 .28 .67 .28 .76 .47 .54 .47; oval #1c1c1c .12 .6 .38 .88, .64 .6 .9 .88
cat: poly #e58a2e .12 .05 .4 .3 .12 .5, .88 .05 .6 .3 .88 .5; oval #e58a2e .1 .2 .9 .92; oval #1f5f2a .26 .42 .42 .58,
    .58 .42 .74 .58; poly #f6b0b8 .43 .64 .57 .64 .5 .74
cell phone: rect #16181d .27 .02 .73 .98; rect #54c3f1 .32 .12 .68 .82; oval #9aa0a6 .45 .86 .55 .94
chair: rect #a4672c .2 .02 .32 .98; rect #c98643 .2 .05 .4 .5; rect #a4672c .2 .5 .82 .63, .7 .55 .82 .98
clock: oval #2b2b6b .04 .04 .96 .96; oval #fdfdf5 .13 .13 .87 .87; line #111111 .07 .5 .5 .5 .2, .07 .5 .5 .72 .6
couch: rect #2f7d6b .1 .2 .9 .65; rect #25655a 0 .4 .16 .85, .84 .4 1 .85; rect #3c9d87 .16 .55 .84 .78;
    rect #1b4a41 .16 .78 .84 .86
cup: oval #b5482f .6 .35 .98 .75; oval #f3ece4 .68 .44 .9 .66; poly #d65a3a .12 .2 .74 .2 .68 .92 .18 .92;
    oval #3a2015 .12 .12 .74 .3
dining table: poly #b98450 .15 .25 .85 .25 1 .5 0 .5; rect #8b5e34 0 .5 1 .58, .06 .55 .15 .98, .85 .55 .94 .98
dog: oval #7a5230 .02 .15 .3 .75, .7 .15 .98 .75; oval #b98b5e .15 .1 .85 .85; oval #f0dcc0 .3 .5 .7 .95;
    oval #101010 .4 .52 .6 .66, .28 .32 .38 .44, .62 .32 .72 .44
fork: rect #9aa3ad .44 .45 .56 .98, .26 .38 .74 .5, .26 .02 .35 .45, .455 .02 .545 .45, .65 .02 .74 .45
frisbee: oval #d81b78 0 .25 1 .75; oval #f7a1cd .14 .33 .86 .62; oval #d81b78 .3 .4 .7 .56
handbag: oval #5b1d7a .25 .02 .75 .7; oval #ffffff .34 .12 .66 .6; poly #8e35b5 .08 .4 .92 .4 1 .95 0 .95;
    rect #f4d35e .42 .52 .58 .66
keyboard: rect #3b3f46 0 .25 1 .78; rect #e6e9ee .05 .32 .16 .43, .205 .32 .315 .43, .36 .32 .47 .43, .515 .32 .625 .43,
    .67 .32 .78 .43, .825 .32 .935 .43, .05 .47 .16 .58, .205 .47 .315 .58, .36 .47 .47 .58, .515 .47 .625 .58,
    .67 .47 .78 .58, .825 .47 .935 .58, .22 .63 .78 .72
kite: poly #f4511e .5 0 .85 .35 .5 .35; poly #fdd835 .5 0 .15 .35 .5 .35; poly #1e88e5 .15 .35 .5 .35 .5 .75;
    poly #43a047 .85 .35 .5 .35 .5 .75; line #333333 .04 .5 .75 .38 .85 .55 .92 .45 1
knife: poly #dfe5ea .42 .02 .64 .2 .64 .6 .42 .6; rect #4e2a14 .42 .6 .58 .98
laptop: rect #2e3138 .14 .1 .86 .65; rect #7fd1c7 .2 .16 .8 .58; poly #b8bec7 .14 .66 .86 .66 1 .9 0 .9
motorcycle: oval #111111 0 .5 .4 .92; oval #8a8a8a .11 .61 .29 .81; oval #111111 .6 .5 1 .92;
    oval #8a8a8a .71 .61 .89 .81; poly #f57c00 .15 .45 .45 .5 .62 .3 .78 .35 .72 .65 .35 .72;
    line #333333 .06 .66 .15 .8 .7
mouse: oval #e8e8ee .2 .05 .8 .98; line #5c6470 .05 .5 .05 .5 .45, .05 .22 .45 .78 .45; oval #2962ff .44 .16 .56 .34
oven: rect #70757d .06 .04 .94 .96; rect #23262b .15 .35 .85 .85; rect #f08a24 .22 .45 .78 .75;
    oval #fafafa .16 .11 .3 .25, .43 .11 .57 .25, .7 .11 .84 .25
person: oval #f0c29a .34 0 .66 .32; poly #2e7d32 .22 .36 .78 .36 .7 .7 .3 .7; rect #283593 .32 .68 .47 1, .53 .68 .68 1;
    line #f0c29a .09 .24 .38 .1 .66, .09 .76 .38 .9 .66
pizza: poly #d08a3c 0 .12 1 .12 .5 1; poly #f7d154 .1 .22 .9 .22 .5 .92; oval #b71c1c .26 .26 .44 .44, .56 .28 .74 .46,
    .42 .52 .58 .68
refrigerator: rect #c9d3da .18 0 .84 1; rect #eef3f6 .22 .03 .8 .34, .22 .39 .8 .95; rect #5f6b73 .27 .1 .33 .28,
    .27 .46 .33 .7; rect #3b82c4 .5 .12 .7 .24
remote: rect #20242b .32 .02 .68 .98; oval #e53935 .42 .07 .58 .21; rect #cfd8dc .38 .32 .47 .4, .53 .32 .62 .4,
    .38 .47 .47 .55, .53 .47 .62 .55, .38 .62 .47 .7, .53 .62 .62 .7, .38 .77 .47 .85, .53 .77 .62 .85
spoon: oval #b9a04a .3 .02 .7 .45; oval #e6d58f .38 .09 .62 .38; rect #b9a04a .45 .42 .55 .98
stop sign: rect #777777 .46 .6 .54 1; poly #d50000 .32 0 .68 0 .9 .2 .9 .5 .68 .7 .32 .7 .1 .5 .1 .2;
    rect #ffffff .2 .28 .8 .42
traffic light: rect #1f1f1f .28 0 .72 .85; oval #ff1744 .38 .05 .62 .27; oval #ffea00 .38 .31 .62 .53;
    oval #00e676 .38 .57 .62 .79; rect #555555 .45 .85 .55 1
truck: rect #f5f5f0 0 .15 .62 .72; poly #1565c0 .64 .32 .86 .32 1 .52 1 .72 .64 .72;
    poly #cfefff .72 .38 .84 .38 .93 .52 .72 .52; oval #111111 .1 .62 .32 .88, .68 .62 .9 .88
tv: rect #0d0d12 0 .1 1 .75; poly #5e35b1 .06 .16 .94 .16 .06 .69; poly #26c6da .94 .16 .94 .69 .06 .69;
    rect #0d0d12 .44 .75 .56 .88, .25 .86 .75 .93
umbrella: line #4e342e .06 .5 .1 .5 .92 .38 .97; poly #8e24aa 0 .52 .15 .22 .5 .04 .85 .22 1 .52 .75 .44 .5 .52 .25 .44;
    poly #ffca28 .36 .47 .5 .04 .64 .47 .5 .52
vase: line #388e3c .05 .5 .45 .3 .15, .05 .5 .45 .7 .12; oval #ec407a .18 .02 .42 .26; oval #ffa726 .58 0 .82 .24;
    poly #00838f .38 .42 .62 .42 .78 .7 .62 .98 .38 .98 .22 .7
"""
ICONS = dict(drawing.split(": ") for drawing in DRAWINGS.strip().replace("\n    ", " ").splitlines())


@lru_cache
def sprite(category: str) -> Image.Image:
    """The drawing of one category: RGBA, SPRITE_PIXELS square, transparent around the object."""
    image = Image.new("RGBA", (SPRITE_PIXELS, SPRITE_PIXELS), (0, 0, 0, 0))
    draw = ImageDraw.Draw(image)
    draw_shape = {"rect": draw.rectangle, "oval": draw.ellipse, "poly": draw.polygon}
    for kind, colour, coordinates in (shapes.split(" ", 2) for shapes in ICONS[category].split("; ")):
        for numbers in coordinates.split(", "):
            pixels = [round(float(number) * (SPRITE_PIXELS - 1)) for number in numbers.split()]
            if kind == "line":
                draw.line(pixels[1:], fill=colour, width=pixels[0], joint="curve")
            else:
                draw_shape[kind](pixels, fill=colour)
    return image


@lru_cache(maxsize=4096)
def sprite_at(category: str, pixels: int) -> Image.Image:
    """`sprite` at another size."""
    return sprite(category).resize((pixels, pixels), Image.Resampling.BOX)
