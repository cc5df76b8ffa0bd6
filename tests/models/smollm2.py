"""Where the real SmolLM2-135M lies, and the text and prompts on which it is compared."""

import os
from pathlib import Path

NAME = "smollm2-135m"
GOLDEN = Path(__file__).parent / "golden" / f"{NAME}.json"
NEW = 64
# Of a greedy token's logit over the next best, or the token says nothing about exactness: seven
# times the largest difference of a logit found between the two float32 computations (1.5e-4).
LEAD = 1e-3
MISSING = f"needs {NAME}: JAXCOMP_ASSETS=DIR, the folder that holds it"


def folder() -> Path:
    """The model's folder, which may not exist."""
    home = os.environ.get("JAXCOMP_ASSETS") or Path.home() / ".cache" / "jaxcomp-assets"
    return Path(home) / NAME


TEXT = """\
The harbour at Senna has two walls. The older one was built of rubble by people who fished for
herring and could not write, and nobody knows its age; the newer one cost 48,000 crowns in 1911
and was paid for by a tax on rope. Between the two there is a gap of about thirty metres, and
through that gap, on the morning of the third of March, came a boat without anyone in it.

Marit Holm saw it first. She had gone down before six to look at her nets, because the wind had
turned in the night, and she stood for a while with her hands in her pockets and watched the boat
come on, slowly, a little sideways, as if it were ashamed. It was painted green. It carried one
oar, a tin of paint, a coil of new rope and a loaf of bread that was still warm in the middle.

"Warm," she told the harbour master later. "So he can't have been gone long."

"Or she," said the harbour master, who liked to be exact. He wrote the word in his book: warm.
Then he asked what colour the paint in the tin was, and Marit said that she had not opened it, and
he looked at her for rather a long time. It was white. What they did not ask, and what everybody
asked afterwards, was why a man with one oar should have brought a second coat of paint but no
second oar; and the answer, when it came in April, was so simple that half of the town refused to
believe it. He had not meant to row at all. He had meant to be found, and to be asked about the
colour.
"""

PROMPTS = (
    "The capital of France is",
    "Once upon a time, in a village at the edge of a forest, there lived",
    "Water boils at",
    "def fibonacci(n):\n    ",
    "The three primary colours are",
    "In 1969, two astronauts",
    "Photosynthesis is the process by which",
    "My grandmother's recipe for bread begins like this: first,",
    "The difference between a virus and a bacterium is that",
    "Dear Sir or Madam,\n\nI am writing to",
    "2, 4, 6, 8, 10,",
    "The train was late, so Anna",
    "A good map of the city should show",
    "Q: How many legs does a spider have?\nA:",
    "Gravity",
    "The old bridge over the river had been closed for two years when the engineers said that",
    "import numpy as np\n\n# the mean of each column of a matrix\n",
    "The first line of the poem was",
    "If all roses are flowers and some flowers fade quickly, then",
    "The most important thing about learning to swim is",
)
