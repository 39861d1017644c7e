"""Word material, all of it written for this project: common words, facts, and a generator of pronounceable words."""

# ruff: noqa: SIM905 - word lists read better as text than as a thousand quotation marks

from __future__ import annotations

import zlib
from random import Random

from training.pocket.types import Split

TEST_SHARE = 5
"""One payload in this many is kept for the test split."""

COMMON_WORDS = tuple(
    """
    cat dog cow pig hen fox bee ant owl bat rat elk hawk wolf bear deer goat lamb duck swan frog toad crab fish seal
    lion tiger horse sheep mouse snake whale shark eagle robin camel zebra panda otter koala rabbit turtle spider
    monkey parrot beaver donkey falcon lizard dolphin penguin giraffe elephant
    sun moon star sky rain snow wind storm cloud river lake ocean beach island forest desert valley mountain meadow
    stone sand rock hill leaf tree root seed grass flower garden branch volcano thunder lightning rainbow
    apple pear plum peach lemon grape mango melon cherry banana orange tomato potato carrot onion pepper garlic
    bread butter cheese milk egg rice soup cake sugar honey salt pasta pizza salad cookie coffee juice water breakfast
    cup plate spoon fork knife bowl table chair bed lamp door window wall roof floor kitchen mirror carpet curtain
    blanket pillow candle basket bottle bucket ladder hammer shovel needle thread button pocket ticket packet wallet
    book pen pencil paper letterbox desk school lesson teacher student library picture history science music guitar
    piano violin trumpet drum song dance movie theater camera radio phone laptop screen keyboard printer robot engine
    car bus train plane boat ship truck bicycle wheel road bridge tunnel station airport harbor street market village
    castle tower palace temple museum office hotel doctor nurse farmer baker driver pilot sailor soldier painter
    writer singer lawyer hunter king queen prince knight wizard dragon pirate monster
    hand foot head neck nose mouth tooth finger shoulder elbow knee heart stomach shirt dress coat hat shoe sock glove
    scarf jacket trousers summer winter spring autumn monday friday sunday morning evening night january april
    red blue green yellow purple silver golden bright quiet clever gentle brave honest hungry thirsty sleepy angry
    run jump walk swim climb sing laugh smile dream think write read speak listen travel wander gather follow build
    hello world computer planet rocket diamond crystal treasure journey adventure mystery science magic shadow whisper
    hope love luck joy fear peace truth honor glory freedom courage wisdom patience kindness friendship
    word letter number name order list task question answer capital
    jacket helmet anchor barrel cabin feather lantern compass saddle blossom harvest orchard cottage fountain
    """.split()
)
COMMON_WORDS = tuple(dict.fromkeys(COMMON_WORDS))

SHOWCASE_WORDS = frozenset(
    """hello cat dog banana world apple house python router tree word letter number name order list task question
    answer capital""".split()
)
"""Words always on the train side: those that newcomers type first, and those that are single tokens
(their spelling cannot be seen, so it must have been learned)."""

CAPITALS = {
    line.split(":")[0].strip(): line.split(":")[1].strip()
    for line in """
    France:Paris; Germany:Berlin; Spain:Madrid; Italy:Rome; Portugal:Lisbon; Austria:Vienna; Belgium:Brussels;
    Denmark:Copenhagen; Sweden:Stockholm; Norway:Oslo; Finland:Helsinki; Iceland:Reykjavik; Ireland:Dublin;
    Poland:Warsaw; Greece:Athens; Hungary:Budapest; Romania:Bucharest; Bulgaria:Sofia; Croatia:Zagreb; Serbia:Belgrade;
    Ukraine:Kyiv; Russia:Moscow; Turkey:Ankara; Egypt:Cairo; Kenya:Nairobi; Morocco:Rabat; Ghana:Accra; Nigeria:Abuja;
    Ethiopia:Addis Ababa; Japan:Tokyo; China:Beijing; India:New Delhi; Thailand:Bangkok; Vietnam:Hanoi;
    Indonesia:Jakarta; Iran:Tehran; Iraq:Baghdad; Israel:Jerusalem; Canada:Ottawa; Mexico:Mexico City; Cuba:Havana;
    Brazil:Brasilia; Argentina:Buenos Aires; Chile:Santiago; Peru:Lima; Colombia:Bogota; Ecuador:Quito;
    Australia:Canberra; New Zealand:Wellington; England:London; Scotland:Edinburgh; Netherlands:Amsterdam;
    Switzerland:Bern; Czechia:Prague; Estonia:Tallinn; Latvia:Riga; Pakistan:Islamabad; South Korea:Seoul;
    Tunisia:Tunis; Jamaica:Kingston
    """.split(";")
}

OPPOSITES = tuple(
    (pair.split("-")[0], pair.split("-")[1])
    for pair in """
    hot-cold big-small tall-short fast-slow old-new rich-poor hard-soft wet-dry full-empty open-closed light-dark
    early-late high-low happy-sad clean-dirty strong-weak thick-thin deep-shallow loud-quiet near-far safe-dangerous
    wide-narrow sweet-sour heavy-light good-bad right-wrong true-false inside-outside up-down day-night north-south
    east-west win-lose buy-sell push-pull give-take love-hate start-stop come-go above-below before-after always-never
    left-right black-white young-old asleep-awake
    """.split()
)

IRREGULAR_PLURALS = {
    "man": "men", "woman": "women", "child": "children", "foot": "feet", "tooth": "teeth", "mouse": "mice",
    "goose": "geese", "person": "people", "sheep": "sheep", "fish": "fish", "knife": "knives", "leaf": "leaves",
    "wolf": "wolves", "wife": "wives", "life": "lives", "half": "halves", "shelf": "shelves", "loaf": "loaves",
    "deer": "deer", "ox": "oxen",
}  # fmt: skip

PLURAL_NOUNS = tuple(
    """
    cat dog cow pig hen bee ant owl bat rat tiger horse snake whale shark eagle apple pear lemon grape carrot table
    chair lamp door window book pen pencil car train boat ship wheel road bridge cup plate spoon flower garden tree
    house school teacher student doctor farmer letter island river mountain finger shirt button rocket planet
    box fox bus glass dress dish brush watch church beach peach bench lunch wish kiss class match branch sandwich fax
    city baby lady party story berry cherry puppy pony fly country family army enemy daisy butterfly memory library
    toy boy key day monkey donkey tray valley turkey journey
    """.split()
)

UNITS: tuple[tuple[tuple[str, ...], tuple[str, ...], int, bool], ...] = (
    (("km", "kilometres", "kilometers"), ("metres", "meters", "m"), 1000, True),
    (("metres", "meters", "m"), ("centimetres", "centimeters", "cm"), 100, True),
    (("centimetres", "centimeters", "cm"), ("millimetres", "millimeters", "mm"), 10, True),
    (("kilograms", "kg", "kilos"), ("grams", "g"), 1000, True),
    (("litres", "liters"), ("millilitres", "milliliters", "ml"), 1000, True),
    (("dollars", "euros"), ("cents",), 100, True),
    (("hours",), ("minutes",), 60, False),
    (("minutes",), ("seconds",), 60, False),
    (("weeks",), ("days",), 7, False),
    (("days",), ("hours",), 24, False),
    (("years",), ("months",), 12, False),
    (("feet",), ("inches",), 12, False),
)
"""(source names, target names, factor, whether the factor is a power of ten)."""

ONSETS = "b c d f g h j k l m n p r s t v w z br cr dr fl gr pl pr sh sl st th tr".split()
VOWELS = "a e i o u a e i o ea oo ai".split()
CODAS = ["", "", "", "n", "r", "l", "t", "s", "m", "k", "nd", "st", "p", "x", "y"]


def split_of(key: str) -> Split:
    """Say which split a payload key belongs to (stable across runs and machines)."""
    if key in SHOWCASE_WORDS:
        return "train"
    return "test" if zlib.crc32(key.encode()) % TEST_SHARE == 0 else "train"


def invented_word(random: Random, shortest: int, longest: int) -> str:
    """Return a pronounceable made-up word of ``shortest`` to ``longest`` letters."""
    length = random.randint(shortest, longest)
    word = ""
    while len(word) < length:
        word += random.choice(ONSETS) + random.choice(VOWELS) + random.choice(CODAS)
    return word[:length]


def draw_word(random: Random, shortest: int, longest: int, split: Split) -> str:
    """Return a common (half of the time) or invented word of the wanted lengths and split."""
    while True:
        word = random.choice(COMMON_WORDS) if random.random() < 0.5 else invented_word(random, shortest, longest)
        if shortest <= len(word) <= longest and split_of(word) == split:
            return word
