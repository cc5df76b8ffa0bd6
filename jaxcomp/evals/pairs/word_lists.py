"""The closed word lists of the rules that make minimal pairs (edit_rules.py). English only.

A group holds words that stand in the same place of a sentence and exclude each other's meaning, so
that one put for the other keeps the grammar and changes what is said. Synonyms never share one.
"""

from collections.abc import Sequence


def words_of(text: str) -> frozenset[str]:
    """The words of a string."""
    return frozenset(text.split())


# Attributive adjectives; those of nations are followed by a word in lower case.
ADJECTIVES = (
    ("large", "small"), ("big", "small"), ("long", "short"), ("old", "new"), ("old", "young"),
    ("high", "low"), ("rich", "poor"), ("strong", "weak"), ("early", "late"),
    ("public", "private"), ("foreign", "domestic"), ("military", "civil"), ("national", "local"),
    ("northern", "southern", "eastern", "western"), ("ancient", "modern"), ("heavy", "light"),
    ("hot", "cold"), ("black", "white", "red", "green", "blue", "yellow", "brown"),
    ("rural", "urban"), ("male", "female"), ("upper", "lower"), ("wide", "narrow"),
    ("deep", "shallow"), ("good", "bad"), ("easy", "difficult"), ("common", "rare"),
    ("peaceful", "violent"), ("permanent", "temporary"), ("direct", "indirect"),
    ("positive", "negative"), ("rapid", "slow"), ("wise", "foolish"), ("simple", "complex"),
    ("annual", "monthly", "weekly", "daily"), ("economic", "political", "religious", "cultural"),
    ("sweet", "bitter"), ("happy", "sad"), ("bright", "dark"), ("safe", "dangerous"),
    ("American", "British", "French", "German", "Spanish", "Russian", "Italian", "Chinese",
     "Japanese", "Mexican", "Roman", "Greek", "English", "Dutch"),
)  # fmt: skip

# Verbs between a subject and a thing; in the past they equal their participle, so that "had
# accepted the" may be changed as "accepted the" is.
PAST = (
    ("accepted", "rejected"), ("attacked", "defended"), ("built", "destroyed"), ("bought", "sold"),
    ("opened", "closed"), ("increased", "reduced"), ("improved", "damaged"),
    ("supported", "opposed"), ("praised", "blamed"), ("loved", "hated", "feared"),
    ("found", "lost"), ("won", "lost"), ("saved", "killed"),
    ("encouraged", "discouraged"), ("helped", "hindered"),
    ("strengthened", "weakened"), ("raised", "lowered"), ("established", "abolished"),
    ("created", "destroyed"), ("approved", "rejected"), ("adopted", "rejected"),
    ("protected", "attacked"), ("granted", "refused"), ("sent", "received"),
    ("expanded", "limited"), ("maintained", "abandoned"), ("followed", "ignored"),
    ("visited", "avoided"), ("remembered", "ignored"), ("admired", "despised"),
)  # fmt: skip
BASE = (
    ("accept", "reject"), ("attack", "defend"), ("build", "destroy"), ("buy", "sell"),
    ("open", "close"), ("increase", "reduce"), ("improve", "damage"), ("support", "oppose"),
    ("praise", "blame"), ("love", "hate", "fear"), ("find", "lose"), ("win", "lose"),
    ("save", "kill"), ("encourage", "discourage"),
    ("help", "hinder"), ("strengthen", "weaken"), ("raise", "lower"), ("establish", "abolish"),
    ("create", "destroy"), ("approve", "reject"), ("adopt", "reject"), ("protect", "attack"),
    ("grant", "refuse"), ("send", "receive"), ("expand", "limit"),
    ("maintain", "abandon"), ("preserve", "destroy"), ("follow", "ignore"),
    ("promote", "prevent"), ("provide", "refuse"), ("continue", "stop"), ("secure", "endanger"),
    ("reduce", "expand"), ("restore", "destroy"), ("meet", "avoid"), ("remember", "ignore"),
)  # fmt: skip

# What a person does to a person: any for any other.
DEEDS = (
    "met", "helped", "followed", "killed", "praised", "thanked", "visited", "saved", "taught",
    "blamed", "warned", "married", "heard", "paid", "struck",
)  # fmt: skip
# After these a pronoun is the object, and nothing has to agree with the subject.
TOLD = (
    "told", "saw", "asked", "gave", "met", "knew", "loved", "helped", "followed", "sent", "left",
    "heard", "found", "thanked", "taught", "paid", "hated", "struck", "killed", "married", "called",
    "brought", "showed", "offered", "warned", "watched", "wrote", "promised", "reminded", "served",
)  # fmt: skip

# After a form of "to be".
PREDICATES = (
    ("possible", "impossible"), ("likely", "unlikely"), ("able", "unable"),
    ("willing", "unwilling"), ("known", "unknown"), ("necessary", "unnecessary"),
    ("certain", "uncertain"), ("happy", "unhappy"), ("important", "unimportant"),
    ("complete", "incomplete"), ("legal", "illegal"), ("dependent", "independent"),
    ("safe", "unsafe"), ("clear", "unclear"), ("satisfied", "dissatisfied"),
)  # fmt: skip
CONTRARIES = (
    ("always", "never"), ("everything", "nothing"), ("everybody", "nobody"),
)  # fmt: skip

ORDINALS = ("first", "second", "third", "last")
# "the first place", "the second half": no other ordinal would do, or none would be false.
NOT_COUNTED = words_of(
    "place half time instance analysis resort days weeks months years decades century decade year "
    "week month night lady named class two three four five six seven eight ten twelve"
)

NAMES_OF_TIME = (
    "war", "battle", "death", "birth", "election", "revolution", "meeting", "conference", "dinner",
    "breakfast", "lunch", "supper", "noon", "midnight", "dawn", "dusk", "sunrise", "sunset",
    "game", "match", "wedding", "funeral", "invasion", "conquest", "attack", "arrival",
    "departure", "return", "marriage", "defeat", "victory", "fall", "end", "beginning", "peace",
)  # fmt: skip
SPANS = (
    "seconds|minutes|hours|days|weeks|months|years|decades|centuries|"
    "second|minute|hour|day|week|month|year|decade|century"
)

# Of verbs with an agent and a patient: bases, and participles that do not end in "ed".
TRANSITIVE = words_of(
    "abandon absorb accept accomplish address administer adopt advance affect amend annex appoint "
    "approve arrest assist attack attract authorize avoid capture celebrate change command confirm "
    "confront conquer conduct control create damage defeat defend delay describe destroy develop "
    "direct discover dominate encourage enforce engage enlarge establish examine exchange execute "
    "exercise expand explore extend finance follow fulfill furnish govern guard guide improve "
    "influence inspire introduce invade join kill limit maintain manage measure murder observe "
    "obstruct obtain occupy operate oppose organize outline perform preserve prevent produce "
    "promote protect publish punish purchase pursue ratify reach receive recognize recommend "
    "recover reduce regulate reject release relieve remove replace represent rescue resist restore "
    "satisfy secure seize select serve settle sign solve strengthen study supervise supply support "
    "suppress surround sustain threaten transport undermine visit watch witness welcome "
    "build buy sell find win meet lead hold catch sink"
)
IRREGULAR = {
    "build": "built", "buy": "bought", "sell": "sold", "find": "found", "win": "won",
    "meet": "met", "lead": "led", "hold": "held", "catch": "caught", "sink": "sunk",
    "control": "controlled",
}  # fmt: skip
DOUBLED = words_of("control win")  # before "ing"
# Participles that do not end in "ed"; the second list equals the past tense.
PARTICIPLES = words_of(
    "built bought sold found won lost sent led held taught sought kept paid caught shot brought "
    "struck met taken given driven chosen overthrown written seen drawn known beaten borne worn"
)
PAST_PARTICIPLES = words_of(
    "built bought sold won lost sent led sought caught shot brought struck met"
)
# Verbs that take no patient, or a clause or two objects.
NOT_PASSIVE = words_of(
    "believed hoped wished supposed claimed insisted assumed argued suggested feared expected "
    "showed demonstrated realized learned stated announced declared indicated proved noted "
    "observed remarked concluded decided determined discovered explained doubted agreed denied "
    "imagined found heard known seemed remained lived died arrived happened appeared proceeded "
    "belonged lasted stayed resembled lacked weighed needed called named entitled termed taught "
    "offered granted awarded allowed afforded caused enabled assigned rendered promised refused "
    "served seen turned passed given walked waited ended graduated owed based looked returned "
    "worked married competed travelled traveled moved resided"
)
# Of nations, as adjectives: "the British" are many.
OF_NATIONS = ("an", "ans", "ish", "ese", "ch")
PLURALS = words_of("people men women children police cattle feet others many few")
# After a determiner these begin nothing that acts.
NO_AGENT = (
    "next|following|same|previous|day|days|year|years|morning|night|week|month|time|end|beginning|"
    "fact|way|side|use|help|means|aid|very|most|more|hour|evening|summer|winter|spring|late|early|"
    "latter|middle|mid|age|lead|turn|close|name|few|lot|little|bit|third|quarter|"
    "hundred|thousand|dozen|addition|ton|pound|other"
)

# What may follow a noun that is the head of its phrase.
AFTER_HEAD = (
    "of|in|on|at|for|from|by|with|and|or|but|is|was|are|were|has|had|have|will|would|can|could|"
    "shall|should|must|may|might|which|as|than|when|where|into|under|over|upon|against|between|"
    "during|before|after|through|without|within"
)
DETERMINERS = "the|a|an|this|these|those|his|her|its|their|our|my|your|no|any|some|every|each|all"
# After an auxiliary these stand badly behind "not".
NOT_NEGATED = words_of(
    "no some any to as more rather neither both so much many nothing nobody none"
)
# Heads that name a part of what follows them.
PARTS = words_of(
    "rest whole majority remainder kind sort number most part parts name case cause lack same "
    "other lot half sake purpose amount degree extent course face light hands event only very "
    "following present people said former latter many need right left middle"
)
FUNCTION = frozenset(
    f"{AFTER_HEAD}|{DETERMINERS}|to|that|who|not|be|been|one|ones|he|she|it|they|we|you|i|him|them|"
    "us|me|there|so|if|then|also|more|most|very|too|only|do|did|does|other|same|such|first|last|"
    "own|both|few|many|much|way|deal|run|tape|seas".split("|")
)


def others(groups: Sequence[Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """Of each word of the groups those that may stand in its place, in order of appearance."""
    found: dict[str, list[str]] = {}
    for group in groups:
        for word in group:
            mine = found.setdefault(word, [])
            mine += [w for w in group if w != word and w not in mine]
    return {word: tuple(alternatives) for word, alternatives in found.items()}
