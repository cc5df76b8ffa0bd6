"""The words of the people world. None is two things, and each is one token."""

FIRST = (
    "Ada", "Ben", "Clara", "Dan", "Ella", "Finn", "Gina", "Hugo", "Ida", "Jon", "Kate", "Liam",
    "Mona", "Ned", "Olga", "Paul", "Rita", "Sam", "Tara", "Umar", "Vera", "Will", "Xena", "Yuri",
    "Zara", "Amir", "Beth", "Carl", "Dora", "Eric", "Fay", "Glen", "Hana", "Ivan", "Jill", "Kurt",
    "Lena", "Max", "Nora", "Otto", "Pia", "Ravi", "Sara", "Tom", "Ursula", "Vik", "Wanda", "Abel",
    "Bella", "Cole", "Diana", "Evan", "Flora", "Gus", "Helen", "Igor", "Judy", "Kim", "Lola",
    "Mark", "Nell", "Omar", "Petra", "Ross",
)  # fmt: skip
LAST = (
    "Stone", "Hill", "Wood", "Lake", "Marsh", "Field", "Brook", "Frost", "Wells", "Cross", "Park",
    "Lane", "Moore", "Grant", "Price", "Blake", "Davis", "Evans", "Foster", "Gibson", "Harris",
    "Irwin", "Jones", "Keller", "Lewis", "Mason", "Nash", "Owens", "Porter", "Quinn", "Reed",
    "Shaw", "Turner", "Usher", "Vance", "Walsh", "Young", "Zimmer", "Adams", "Brown", "Carter",
    "Dixon", "Ellis", "Fisher", "Green", "Hughes", "Ingram", "Jensen", "Kramer", "Lopez", "Morris",
    "Newton", "Olsen", "Palmer", "Riley", "Sutton", "Tucker", "Vaughn", "Watson", "York", "Archer",
    "Barton", "Conway", "Duffy",
)  # fmt: skip

# kind -> (words between the person and the value, values)
ATTRIBUTES = {
    "home": ("lived in", (
        "Rome", "Paris", "London", "Cairo", "Lima", "Oslo", "Delhi", "Tokyo", "Boston", "Madrid",
        "Berlin", "Vienna", "Dublin", "Prague", "Athens", "Lisbon",
    )),
    "profession": ("worked as a", (
        "baker", "teacher", "doctor", "farmer", "sailor", "painter", "lawyer", "soldier", "singer",
        "judge", "nurse", "pilot", "tailor", "miner", "driver", "cook",
    )),
    "pet": ("owned a", (
        "dog", "cat", "horse", "goat", "parrot", "rabbit", "turtle", "snake", "pig", "duck",
        "hamster", "donkey", "pony", "lizard", "canary", "ferret",
    )),
    "colour": ("wore", (
        "red", "blue", "green", "black", "white", "yellow", "purple", "brown", "grey", "pink",
        "gold", "silver", "violet", "scarlet", "navy", "beige",
    )),
    "food": ("ate", (
        "rice", "bread", "soup", "cheese", "pasta", "beans", "salad", "fish", "eggs", "honey",
        "apples", "plums", "olives", "nuts", "corn", "figs",
    )),
    "subject": ("studied", (
        "law", "music", "history", "physics", "botany", "logic", "poetry", "algebra", "grammar",
        "anatomy", "geology", "chemistry", "drama", "optics", "ethics", "finance",
    )),
}  # fmt: skip
DEEDS = ("called", "helped", "paid", "taught", "thanked", "warned", "blamed", "hired")
FILLERS = (
    "The rain fell all night.", "Nobody heard the bell.", "The train came late.",
    "The market was full.", "A cold wind blew.", "The road was empty.", "It was a long day.",
    "Snow lay on the roofs.",
)  # fmt: skip
