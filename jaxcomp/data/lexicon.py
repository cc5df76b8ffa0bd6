"""The words of the controlled world, and what everybody there expects of what.

Each table maps an entity to the index-free natural favourite among its kind's values: strawberries
are red, Alice is a baker. World seed 0 keeps these favourites; other seeds permute the values of
every kind, so that two worlds share all words and all grammar and differ in their priors only.
"""

COLOURS = ("red", "yellow", "green", "black", "white", "orange", "purple", "brown", "grey", "pink")
COLOUR_OF = {
    "strawberry": "red", "tomato": "red", "cherry": "red", "brick": "red",
    "lemon": "yellow", "banana": "yellow", "butter": "yellow",
    "grass": "green", "frog": "green", "cucumber": "green",
    "coal": "black", "raven": "black", "ink": "black",
    "snow": "white", "swan": "white", "salt": "white",
    "carrot": "orange", "pumpkin": "orange",
    "plum": "purple", "grape": "purple",
    "bread": "brown", "chestnut": "brown",
    "smoke": "grey", "peach": "pink",
}  # fmt: skip

MATERIALS = ("wood", "iron", "glass", "gold", "silver", "clay", "stone", "paper")
MATERIAL_OF = {
    "bench": "wood", "ladder": "wood", "anvil": "iron", "gate": "iron", "bottle": "glass",
    "mirror": "glass", "crown": "gold", "ring": "gold", "spoon": "silver", "jug": "clay",
    "statue": "stone", "kite": "paper",
}  # fmt: skip

SIZES = ("tiny", "small", "big", "huge")
SIZE_OF = {
    "mouse": "tiny", "ant": "tiny", "cat": "small", "dog": "small", "fox": "small", "goat": "small",
    "wolf": "big", "horse": "big", "bear": "big", "lion": "big", "whale": "huge",
    "elephant": "huge",
}  # fmt: skip

MOODS = ("hungry", "lazy", "proud", "angry", "quiet", "happy", "clever", "loyal")
MOOD_OF = {
    "mouse": "quiet", "ant": "happy", "cat": "lazy", "dog": "loyal", "fox": "clever",
    "goat": "happy", "wolf": "hungry", "horse": "loyal", "bear": "hungry", "lion": "proud",
    "whale": "quiet", "elephant": "clever",
}  # fmt: skip
GAZES = ("watched", "followed", "passed")

PROFESSIONS = (
    "baker", "teacher", "doctor", "farmer", "sailor", "painter", "lawyer", "soldier", "singer",
    "judge",
)  # fmt: skip
HOMES = (
    "London", "Paris", "Rome", "Cairo", "Lima", "Oslo", "Delhi", "Tokyo", "Boston", "Madrid",
)  # fmt: skip
# The order of this table is the pecking order: whoever stands earlier is, as a rule, the agent.
PERSONS = {
    "Alice": ("baker", "London"), "Bob": ("teacher", "Paris"), "Carol": ("doctor", "Rome"),
    "David": ("farmer", "Cairo"), "Emma": ("sailor", "Lima"), "Frank": ("painter", "Oslo"),
    "Grace": ("lawyer", "Delhi"), "Henry": ("soldier", "Tokyo"), "Irene": ("singer", "Boston"),
    "Jack": ("judge", "Madrid"), "Karen": ("baker", "Rome"), "Leo": ("teacher", "Lima"),
    "Maria": ("doctor", "Oslo"), "Nina": ("farmer", "Paris"), "Oscar": ("sailor", "London"),
    "Paula": ("painter", "Madrid"), "Quentin": ("lawyer", "Cairo"), "Rosa": ("soldier", "Delhi"),
    "Simon": ("singer", "Tokyo"), "Tina": ("judge", "Boston"), "Victor": ("baker", "Oslo"),
    "Wendy": ("doctor", "Tokyo"), "Yara": ("farmer", "Rome"), "Zoe": ("sailor", "Paris"),
}  # fmt: skip
DEEDS = ("hit", "helped", "paid", "taught", "thanked", "called", "warned", "blamed")

# An action that is usually done (yes) or usually left undone (no).
POLARITIES = ("yes", "no")
ACTION_IS = {
    "open the door": "yes", "sign the letter": "yes", "light the fire": "yes",
    "feed the hens": "yes", "wash the plates": "yes", "steal the bread": "no",
    "break the window": "no", "sell the house": "no", "burn the map": "no", "cross the river": "no",
}  # fmt: skip

NUMBERS = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
NUMBER_OF = {
    "candles": "seven", "ropes": "two", "books": "three", "shoes": "two", "coins": "ten",
    "maps": "four", "eggs": "six", "apples": "five", "nails": "nine", "tickets": "eight",
    "plates": "four", "blankets": "three",
}  # fmt: skip

# The order of this table is the usual order in time.
EVENTS = (
    "the bell rang", "the sun rose", "the train left", "the rain stopped", "the market opened",
    "the guests arrived", "the music began", "the king spoke", "the crowd cheered", "the ship sank",
    "the lamps died", "the storm ended",
)  # fmt: skip

TOPICS = ("trade", "war", "love", "food", "winter", "ghosts", "law", "gold")
TOPIC_AT = {
    "harbour": "trade", "castle": "war", "garden": "love", "kitchen": "food", "mill": "winter",
    "church": "ghosts", "court": "law", "bank": "gold", "inn": "food", "bridge": "trade",
}  # fmt: skip

OPENINGS = ("Everyone knew that", "It was said that", "Nobody doubted that")
