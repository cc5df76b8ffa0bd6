"""Training.

Of the run that was measured, in `results.csv`: what it saw, and its validation passages after
training. Learning rates are chosen on `val_loss`, and nothing is reported from it.
"""

from jaxcomp.evals.metric import HIGHER, LOWER, TEACHER_FORCED, Metric, declare, forced

declare(
    __name__,
    Metric(
        "params",
        "count",
        "parameters of the compressor's transformer as used, embeddings included, a tied output "
        "matrix once; connector and memory tokens not counted. The x axis of plots and the size "
        "of every trend",
    ),
    Metric("params_body", "count", "those of its layers' matrices alone"),
    Metric("train/steps", "count", "optimiser updates"),
    Metric(
        "train/tokens",
        "count",
        "tokens seen by them (compressor's context and decoder's targets, without padding)",
    ),
    Metric("train/loss", "nats/token", "exponential mean of the training loss", TEACHER_FORCED),
    Metric(
        "train/parameters_trained",
        "count",
        "what was trained, connector, memory tokens and markers included",
    ),
    Metric("train/parameters_decoder", "count", "of the frozen decoder"),
    forced(
        "val_loss",
        "nats/token",
        "loss of rebuilding the validation passages after training",
        LOWER,
    ),
    forced("val/loss_continue", "nats/token", "loss of continuing them", LOWER),
    *(
        forced(
            f"val/accuracy_{mode}",
            "share",
            f"target tokens that are the most likely one, when the decoder is to {mode}",
            HIGHER,
        )
        for mode in ("rebuild", "continue")
    ),
)
