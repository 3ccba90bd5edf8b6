"""Words that the prompts of prompts.py are made of."""

from __future__ import annotations

WOMEN = (
    *(
        "Anna",
        "Clara",
        "Emma",
        "Grace",
        "Iris",
        "Karen",
        "Maria",
        "Olivia",
        "Rosa",
        "Tara",
        "Wendy",
    ),
    *("Zoe", "Bella", "Diana", "Fatima", "Hannah"),
)
MEN = (
    *("Ben", "David", "Felix", "Henry", "Jack", "Leo", "Noah", "Paul", "Sam", "Victor", "Yusuf"),
    *("Amir", "Carlos", "Elias", "George", "Ivan"),
)
NAMES = (*WOMEN, *MEN)
TOWNS = (
    *("Ashford", "Bolton", "Camden", "Dover", "Epsom", "Fairview", "Grafton", "Hilton", "Kelso"),
    *("Linden", "Milford", "Norwood", "Oakham", "Preston", "Redhill", "Selby", "Truro", "Upton"),
    *("Wells", "Yarrow"),
)
TOPICS = (
    *("rain", "the sea", "a garden", "a train ride", "winter", "summer", "a lost key", "a new job"),
    *("a birthday", "the moon", "a small dog", "an old house", "a river", "a bicycle", "coffee"),
    *("tea", "bread", "a market", "a school trip", "a football match", "a library", "music"),
    *("painting", "a holiday", "a mountain", "a forest", "snow", "a storm", "a good friend"),
    *("a neighbour", "a kitchen", "a long walk", "a picnic", "a broken window", "a letter"),
    *("a phone call", "a bus stop", "a farm", "a lake", "a castle", "a bridge", "a wedding"),
    *("a visit to the dentist", "cooking", "swimming", "reading", "sleep", "breakfast", "the wind"),
    *("a museum", "a zoo", "a hat", "an umbrella", "a clock", "apples", "honey", "autumn leaves"),
    *("a beach", "a village", "a night in a tent", "a cat", "a piano", "a chess game", "a candle"),
)
KEYWORDS = (
    *("bright", "quiet", "happy", "old", "green", "slow", "warm", "little", "early", "soft"),
    *(
        "strange",
        "fresh",
        "gentle",
        "morning",
        "window",
        "stone",
        "friend",
        "road",
        "light",
        "song",
    ),
)
COMMON_WORDS = ("very", "good", "nice", "and", "is", "beautiful", "great", "really", "was", "like")

FRUITS = (
    *("apple", "banana", "cherry", "fig", "grape", "kiwi", "lemon", "mango", "orange", "peach"),
    *("pear", "plum", "melon", "apricot"),
)
ANIMALS = (
    *("ant", "bear", "cat", "dog", "eagle", "frog", "goat", "horse", "lion", "monkey", "owl"),
    *("rabbit", "snake", "tiger", "whale", "zebra", "camel", "duck", "donkey", "elephant"),
)
TOOLS = (
    *("hammer", "saw", "drill", "ladder", "shovel", "rake", "wrench", "chisel", "bucket", "brush"),
    *("axe", "file"),
)
CLOTHES = (
    *("coat", "hat", "scarf", "shirt", "sock", "belt", "glove", "jacket", "sweater", "boot"),
    *("skirt", "cap"),
)
FURNITURE = (
    *("chair", "table", "lamp", "sofa", "desk", "bed", "mirror", "cupboard", "carpet", "clock"),
    *("stool", "curtain"),
)
KINDS = {
    "fruits": FRUITS,
    "animals": ANIMALS,
    "tools": TOOLS,
    "clothes": CLOTHES,
    "pieces of furniture": FURNITURE,
}
WORDS = tuple(word for kind in KINDS.values() for word in kind)
PLURALS = {
    word: f"{word}s" for word in WORDS if not word.endswith(("h", "x", "y", "s", "fe", "f", "go"))
}
"""Of the words that form it with an s alone."""
ADJECTIVES = ("old", "red", "blue", "small", "big", "new", "green", "white", "heavy", "cheap")

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
COLOURS = ("red", "blue", "green", "yellow", "white", "black", "brown", "purple", "orange", "grey")
ROOMS = ("kitchen", "cellar", "bathroom", "bedroom", "garage", "attic", "hall", "office")
INSTRUMENTS = ("piano", "violin", "flute", "guitar", "drum", "trumpet", "harp", "cello")
SHOPS = ("bakery", "bookshop", "pharmacy", "bank", "post office", "toy shop", "hotel", "cinema")
STREETS = (
    *("Mill Street", "High Street", "Park Road", "Station Road", "Church Lane", "Green Lane"),
    *("King Street", "Bridge Road"),
)
PETS = ("Rex", "Fido", "Milo", "Luna", "Oscar", "Ruby", "Toby", "Daisy", "Max", "Coco")
TEACHERS = (
    *("Mr. Brown", "Mrs. Clark", "Mr. Hill", "Mrs. Jones", "Mr. Lee", "Mrs. Stone", "Mr. White"),
    *("Mrs. Young", "Mr. Adams", "Mrs. Baker"),
)
FLOORS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh")
THINGS = ("key", "ring", "map", "letter", "coin", "ticket", "watch", "passport", "photo", "pen")
TEAMS = ("Lions", "Tigers", "Eagles", "Bears", "Sharks", "Wolves", "Hawks", "Foxes")
BOOKS = (
    *("The Long Road", "Blue Water", "The Last Train", "Silent Hills", "A Cold Spring"),
    *("The Glass House", "Two Brothers", "Night Birds"),
)
JOBS = ("baker", "doctor", "farmer", "painter", "pilot", "nurse", "plumber", "judge", "sailor")
SHIPS = ("Albatross", "Comet", "Dolphin", "Falcon", "Mermaid", "Neptune", "Orion", "Pelican")
COUNTRIES = ("Norway", "Spain", "Japan", "Brazil", "Egypt", "Canada", "Italy", "India", "Kenya")
CARGOES = ("coffee", "timber", "cotton", "steel", "rice", "salt", "sugar", "wool", "cars")
FLOWERS = ("roses", "tulips", "lilies", "daisies", "violets", "orchids", "poppies", "irises")
COUNTED = (
    *("apples", "books", "pencils", "stamps", "marbles", "coins", "shells", "cookies", "cards"),
    *("balloons", "eggs", "photos", "stickers", "plates", "candles", "buttons", "oranges", "toys"),
)
