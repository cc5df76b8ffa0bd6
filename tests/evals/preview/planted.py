"""The bugs of the peers, each planted in the function that would hold it."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from jaxcomp.compress import autoencoder
from jaxcomp.compress.autoencoder import AutoEncoder
from jaxcomp.compress.kinds import KINDS, KindRow
from jaxcomp.compress.memory import Compressor
from jaxcomp.data import segments
from jaxcomp.data.objectives import OBJECTIVES, ObjectiveRow
from jaxcomp.evals.evaluate import Rebuilder
from jaxcomp.evals.metrics import reconstruction
from jaxcomp.models.generate import Generated
from jaxcomp.runtime.sharding import SPECS
from jaxcomp.training import compressor
from jaxcomp.training.loss import MemoryObjective


class SeesPadding(Compressor):
    def __call__(self, ctx_BT, len_B, **options):
        true = super().__call__(ctx_BT, len_B, **options)
        full = super().__call__(ctx_BT, jnp.full_like(len_B, ctx_BT.shape[1]), **options)
        return true._replace(vec_BMD=full.vec_BMD * true.seg_BM[:, :, None])


class FirstItem(Compressor):
    def __call__(self, ctx_BT, len_B, **options):
        first_BT = jnp.broadcast_to(ctx_BT[:, :1], ctx_BT.shape, out_sharding=SPECS["batch"])
        return super().__call__(first_BT, len_B, **options)


class OneMore(Compressor):
    """16x on 128 tokens gives 9."""

    def __init__(self, *args, slots, **options):
        super().__init__(*args, slots=slots + 1, **options)

    def count(self, T, ratio):
        return T // ratio + 1

    def places(self, M, len_B, ratio):
        seg_BM, pos_BM = super().places(M, len_B, ratio)
        more_BM = (jnp.arange(M) * ratio <= len_B[:, None]) & (len_B[:, None] > 0)
        return more_BM.astype(seg_BM.dtype), pos_BM


class MixesTexts(Compressor):
    def __call__(self, ctx_BT, len_B, **options):
        memory = super().__call__(ctx_BT, len_B, **options)
        mixed_BMD = memory.vec_BMD + 0.1 * jnp.mean(memory.vec_BMD, axis=0)
        return memory._replace(vec_BMD=mixed_BMD * memory.seg_BM[:, :, None])


class MixesSegments(AutoEncoder):
    def memory(self, ctx_BGT, len_BG, **options):
        memory = super().memory(ctx_BGT, len_BG, **options)
        mixed_BMD = memory.vec_BMD + 0.1 * jnp.mean(memory.vec_BMD, axis=1, keepdims=True)
        return memory._replace(vec_BMD=mixed_BMD * memory.seg_BM[:, :, None])


class ReadsEmpty(AutoEncoder):
    def prefix(self, memory, mode_B):
        prefix = super().prefix(memory, mode_B)
        return prefix._replace(seg_BP=jnp.ones_like(prefix.seg_BP))


class HidesLast(AutoEncoder):
    def prefix(self, memory, mode_B):
        seg_BM = memory.seg_BM
        later_BM = jnp.concatenate([seg_BM[:, 1:], jnp.zeros_like(seg_BM[:, :1])], axis=1)
        return super().prefix(memory._replace(seg_BM=seg_BM * later_BM), mode_B)


class LossOnPadding(AutoEncoder):
    def targets(self, *args, **options):
        targets = super().targets(*args, **options)
        return targets._replace(valid_RL=jnp.ones_like(targets.valid_RL))


class UnshiftedMask(AutoEncoder):
    """The inputs' mask on the labels: the end token is never learned."""

    def targets(self, *args, **options):
        targets = super().targets(*args, **options)
        last_R1 = jnp.sum(targets.valid_RL, axis=1, keepdims=True) - 1
        slot_L = jnp.arange(targets.valid_RL.shape[1])
        return targets._replace(valid_RL=targets.valid_RL & (slot_L < last_R1))


class UnshiftedLabels(AutoEncoder):
    """Each state learns the token it has just read."""

    def targets(self, *args, **options):
        targets = super().targets(*args, **options)
        label_RL = jnp.concatenate([targets.label_RL[:, :1], targets.label_RL[:, :-1]], axis=1)
        return targets._replace(label_RL=label_RL)


@dataclass(frozen=True)
class PaddedMean(MemoryObjective):
    def weights(self, batch):
        return jnp.ones_like(batch.tok_len_BO, jnp.float32) / batch.tok_BOL.size


def kind(cls):
    return lambda patch: patch.setitem(KINDS, "append", KindRow("append", cls))


def pair(cls):
    return lambda patch: patch.setattr(autoencoder, "AutoEncoder", cls)


def loud_memory(patch):
    real = Compressor.__init__

    def loud(self, *args, rngs, **options):
        real(self, *args, rngs=rngs, **options)
        self.mem_ME[...] = jax.random.normal(rngs.params(), self.mem_ME.shape)

    patch.setattr(Compressor, "__init__", loud)


def first_characters(patch):
    real = segments.cut

    def cut(*args):
        return [s._replace(ids=s.ids[:1]) for s in real(*args)]

    patch.setattr(segments, "cut", cut)


def padded_mean(patch):
    patch.setitem(OBJECTIVES, "coin", ObjectiveRow("coin", PaddedMean))


def tuned_decoder(patch):
    patch.setattr(compressor, "trainable_filter", lambda train, memory: nnx.Param)


def idle_connector(patch):
    real = compressor.trainable_filter

    def keeps_still(train, memory):
        keep = real(train, memory)
        return lambda path, value: "connector" not in path and keep(path, value)

    patch.setattr(compressor, "trainable_filter", keeps_still)


def swapped_bleu(patch):
    real = reconstruction.bleu
    patch.setattr(reconstruction, "bleu", lambda references, said: real(said, references))


def forced_argmax(patch):
    def free(self, batch, memory, temperature=0.0, seed=0):
        model = nnx.merge(self.graphdef, self.state)
        prefix, tok_BL = model.prefix(memory, batch.mode_BO[:, 0]), batch.tok_BOL[:, 0]
        (B, L), P = tok_BL.shape, prefix.seg_BP.shape[1]
        pos_BL = prefix.start_pos_B[:, None] + jnp.arange(L)
        seg_BL = (jnp.arange(L) < batch.tok_len_BO[:, :1]).astype(jnp.int32)
        hidden_BSD = model.decoder(
            jnp.concatenate([prefix.x_BPD, model.decoder.embed(tok_BL)], axis=1),
            jnp.concatenate([prefix.pos_BP, pos_BL], axis=1),
            jnp.concatenate([prefix.seg_BP, seg_BL], axis=1),
        )
        best_BL = jnp.argmax(model.decoder.unembed(hidden_BSD[:, P - 1 : -1]), axis=-1)
        zeros_BL = jnp.zeros((B, L))
        return Generated(best_BL, batch.tok_len_BO[:, 0], zeros_BL, zeros_BL)

    patch.setattr(Rebuilder, "free", free)


def bits_for_nats(patch):
    real = Rebuilder.forced

    def forced(self, batch, memory, **more):
        found = real(self, batch, memory, **more)
        return found._replace(nll_BL=found.nll_BL / math.log(2))

    patch.setattr(Rebuilder, "forced", forced)
