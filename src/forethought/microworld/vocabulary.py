"""The things and facts of the microworld: every word a query or an answer can turn on.

The tables are small on purpose. A model of about a million parameters can know all of them, so
what separates a good answer from a bad one is the work in between and not the knowledge.
"""

from typing import Final

CAPITALS: Final[dict[str, str]] = {
    "France": "Paris",
    "Italy": "Rome",
    "Spain": "Madrid",
    "Germany": "Berlin",
    "England": "London",
    "Norway": "Oslo",
    "Egypt": "Cairo",
    "Japan": "Tokyo",
    "China": "Beijing",
    "Greece": "Athens",
    "Cuba": "Havana",
    "Peru": "Lima",
    "Kenya": "Nairobi",
    "Poland": "Warsaw",
    "Austria": "Vienna",
    "Ireland": "Dublin",
}

COLOURS: Final[dict[str, str]] = {
    "banana": "yellow",
    "grass": "green",
    "snow": "white",
    "coal": "black",
    "blood": "red",
    "chocolate": "brown",
    "lemon": "yellow",
    "milk": "white",
    "the sky": "blue",
    "a frog": "green",
    "a tomato": "red",
    "the sea": "blue",
}

YOUNG: Final[dict[str, str]] = {
    "dog": "puppy",
    "cat": "kitten",
    "cow": "calf",
    "sheep": "lamb",
    "horse": "foal",
    "bear": "cub",
    "duck": "duckling",
    "frog": "tadpole",
}

OPPOSITES: Final[tuple[tuple[str, str], ...]] = (
    ("hot", "cold"),
    ("big", "small"),
    ("fast", "slow"),
    ("day", "night"),
    ("old", "young"),
    ("open", "closed"),
    ("full", "empty"),
    ("hard", "soft"),
    ("high", "low"),
    ("wet", "dry"),
    ("light", "dark"),
    ("left", "right"),
    ("up", "down"),
    ("early", "late"),
    ("rich", "poor"),
    ("loud", "quiet"),
    ("happy", "sad"),
    ("strong", "weak"),
    ("near", "far"),
    ("first", "last"),
)

SYNONYMS: Final[dict[str, tuple[str, ...]]] = {
    "big": ("large", "huge"),
    "small": ("little", "tiny"),
    "fast": ("quick", "rapid"),
    "happy": ("glad", "cheerful"),
    "quiet": ("silent", "calm"),
    "pretty": ("lovely", "beautiful"),
}
"""The first synonym is the one demonstrations use; any of them is right."""

KINDS: Final[dict[str, tuple[str, ...]]] = {
    "fruits": ("apple", "pear", "plum", "grape", "peach", "melon", "cherry", "orange"),
    "animals": ("dog", "cat", "horse", "tiger", "sheep", "rabbit", "bear", "fox"),
    "tools": ("hammer", "saw", "drill", "wrench", "axe", "shovel", "pliers", "chisel"),
    "metals": ("iron", "gold", "silver", "copper", "tin", "lead", "zinc", "nickel"),
    "trees": ("oak", "pine", "birch", "maple", "willow", "cedar", "elm", "beech"),
}

SUBJECTS: Final[tuple[str, ...]] = ("dog", "cat", "horse", "rabbit", "tiger", "bear", "fox", "girl")
VERBS: Final[tuple[str, ...]] = ("sleeps", "sings", "waits", "plays", "walks", "eats", "jumps")

NAMES: Final[tuple[str, ...]] = (
    "Anna", "Ben", "Clara", "David", "Emma", "Felix", "Greta", "Henry", "Ida", "Jack",
    "Karen", "Leo", "Maria", "Nora", "Oscar", "Paula", "Robin", "Sara", "Tom", "Vera",
)  # fmt: skip

WARES: Final[tuple[str, ...]] = ("pens", "cups", "books", "balls", "lamps", "caps", "cakes", "keys")

WORDS: Final[tuple[str, ...]] = (
    "red", "sun", "fox", "tin", "lamp", "tree", "gold", "moon", "river", "stone", "tiger", "apple",
    "garden", "winter", "planet", "silver", "kitchen", "morning", "blanket", "rainbow",
)  # fmt: skip
"""Words of three to seven letters to count, repeat, wrap and write in capitals."""
