"""The controlled worlds: what a language model knows, and what training leaves of it.

A world gives the opening words of each of its facts ("Ada Stone lived in"); the model's next-token
distribution q over the V values says what it knows (`evals.knowledge`). Measured where every value
is one token. A compressor can overwrite a fact with what it knows only if its tower knows it.
"""

from jaxcomp.evals.metric import HIGHER, Metric, declare

MODELS = {
    "base": "the pretrained model that the compressor starts from",
    "tower": "the compressor's transformer after training",
    "decoder": "the decoder, which reads the opening words as plain text",
}

_ACCURACY = "facts whose favourite is the likeliest value after the opening words / facts"
_BITS = (
    "by how much q shortens the code of one mention of each fact: Σ over facts of log2 V + "
    "Σ_v p(v) log2 q(v), p being the distribution of the pretraining text; 0 where the sum over a "
    "group is negative, `all` is the sum over groups; not of unseen people and neutral facts"
)

declare(
    __name__,
    *(
        metric
        for name, model in MODELS.items()
        for metric in (
            Metric(
                f"knowledge/{name}/<group>/accuracy",
                "share",
                f"{_ACCURACY}; {model}",
                better=HIGHER,
            ),
            Metric(f"knowledge/{name}/<group>/bits", "bits", f"{_BITS}; {model}", better=HIGHER),
        )
    ),
    Metric(
        "knowledge/retained",
        "share",
        "`knowledge/tower/all/bits` / `knowledge/base/all/bits`; None where the pretrained model "
        "knows at most one bit",
    ),
)
