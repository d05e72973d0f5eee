"""Singular of an English noun, with the rules and the mistakes of the CHAIR reference: tables and one function.

Source: Bermi Ferrer's inflector for Python, as it stands in pattern.en (CLiPS) and, shared with it, in the code that
the paper's CHAIR numbers were made with. The numbers depend on the mistakes ("bus" -> "bu", "ties" -> "ty", "four" ->
"fmy"), so the mistakes are kept, and so are the three words that a missing comma in the source glued together.
"""

import re
from functools import lru_cache

_PREPOSITIONS = """
    about above across after among around at athwart before behind below beneath beside besides between betwixt beyond
    but by during except for from in into near of off on onto out over since till to under until unto upon with
"""

# Words without a plural of their own. "wildebeestcarp" and "watercheese" are glued in the source. So "wildebeest" and
# "water" are not protected, while "carp" and "cheese" still are, being the ends of the glued words.
_UNCHANGED = """
    bison bream breeches britches chassis christmas clippers cod contretemps corps debris diabetes djinn eland elk
    flounder gallows georgia graffiti headquarters herpes high-jinks homework innings jackanapes mackerel measles mews
    mumps news pincers pliers proceedings rabies salmon scissors series shears species swine swiss trout tuna whiting
    wildebeestcarp advice bread butter electricity equipment fruit furniture garbage gravel happiness information
    ketchup knowledge love luggage mathematics mayonnaise meat mustard progress research rice sand software
    understanding watercheese
"""

# "zombiebogie" is glued. The source also lists "^pie" and "^tie", which it compares as plain text and never meets.
_ENDING_IN_IE = """
    alergie auntie beanie birdie bombie collie cookie cutie doggie eyrie freebie goonie groupie hankie hippie hoagie
    hottie indie junkie laddie laramie lingerie meanie newbie nightie oldie pixie quickie reverie rookie softie sortie
    stoolie sweetie techie toughie valkyrie veggie weenie yuppie zombiebogie
"""

# Endings, first match wins: "women" -> "woman", and "hour" -> "hmy".
_IRREGULAR = """
    atlantes atlas, atlases atlas, axes axe, beeves beef, brethren brother, children child, corpora corpus,
    corpuses corpus, ephemerides ephemeris, feet foot, ganglia ganglion, geese goose, genera genus, genii genie,
    graffiti graffito, helves helve, kine cow, leaves leaf, loaves loaf, men man, mongooses mongoose, monies money,
    moves move, mythoi mythos, numena numen, occipita occiput, octopodes octopus, opera opus, opuses opus, our my,
    oxen ox, penes penis, penises penis, people person, sexes sex, soliloquies soliloquy, teeth tooth, testes testis,
    trilbys trilby, turves turf, zoa zoon
"""
IRREGULAR = dict(pair.split() for pair in _IRREGULAR.split(","))

# pattern -> replacement, first match wins. Bars inside brackets are the source's and count as a letter.
_RULES = r"""
    (.)ae$ -> \1a; (.)itis$ -> \1itis; (.)eaux$ -> \1eau; (quiz)zes$ -> \1; (matr)ices$ -> \1ix;
    (ap|vert|ind)ices$ -> \1ex; ^(ox)en -> \1; (alias|status)es$ -> \1; ([octop|vir])i$ -> \1us;
    (cris|ax|test)es$ -> \1is; (shoe)s$ -> \1; (o)es$ -> \1; (bus)es$ -> \1; ([m|l])ice$ -> \1ouse;
    (x|ch|ss|sh)es$ -> \1; (m)ovies$ -> \1ovie; (.)ombies$ -> \1ombie; (s)eries$ -> \1eries; ([^aeiouy]|qu)ies$ -> \1y;
    ([aeo]l)ves$ -> \1f; ([^d]ea)ves$ -> \1f; arves$ -> arf; erves$ -> erve; ([nlw]i)ves$ -> \1fe; ([lr])ves$ -> \1f;
    ([aeo])ves$ -> \1ve; (sive)s$ -> \1; (tive)s$ -> \1; (hive)s$ -> \1; ([^f])ves$ -> \1fe; (^analy)ses$ -> \1sis;
    ((a)naly|(b)a|(d)iagno|(p)arenthe|(p)rogno|(s)ynop|(t)he)ses$ -> \1\2sis; (.)opses$ -> \1opsis; (.)yses$ -> \1ysis;
    (h|d|r|o|n|b|cl|p)oses$ -> \1ose; (fruct|gluc|galact|lact|ket|malt|rib|sacchar|cellul)ose$ -> \1ose;
    (.)oses$ -> \1osis; ([ti])a$ -> \1um; (n)ews$ -> \1ews; ([^s])s$ -> \1
"""
RULES = [(re.compile(pattern), replacement) for pattern, _, replacement in map(str.split, _RULES.split(";"))]

# The source tests `listed.endswith(word)`, not `word.endswith(listed)`: every ending of a listed word is protected
# ("ears" because of "shears", but not "bears").
_PROTECTED = frozenset(word[start:] for word in _UNCHANGED.split() for start in range(len(word) + 1))
_PLURALS_IN_IES = tuple(f"{word}s" for word in _ENDING_IN_IE.split())


@lru_cache(maxsize=1 << 16)
def singularize(word: str) -> str:
    """Return the singular of `word` as the CHAIR reference forms it.

    Args:
        word: lower case; two words with a blank between them are legal, the rules then act on the end of the second.
    Differs: pattern.en ends with `s$`, which makes "wine glass" a "wine glas"; the last rule here leaves "ss" alone,
        as the code of the paper does.
    """
    if "-" in word:
        first, *rest = word.split("-")
        if rest[0] in _PREPOSITIONS.split():
            return "-".join([singularize(first), *rest])
    if word.endswith("'"):
        return singularize(word[:-1]) + "'s"
    if word in _PROTECTED or word.endswith(_PLURALS_IN_IES):
        return word
    for ending, singular in IRREGULAR.items():
        if word.endswith(ending):
            return word.removesuffix(ending) + singular
    for pattern, replacement in RULES:
        if pattern.search(word):
            return pattern.sub(replacement, word)
    return word
