"""Autoregressive transformers over the codes of a tile."""

from collections.abc import Callable, Generator, Sequence

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from timm.layers import SwiGLU
from torch import Tensor, nn

from hook.errors import ConfigError
from hook.models.generators.blocks import (
    GATES_FIRST,
    Attention,
    Block,
    Cache,
    FinalNorm,
    Modulation,
    rotary_table,
)
from hook.models.generators.conditions import ConditionEmbedding
from hook.models.generators.sampling import CodeSampling, changed, draw_codes
from hook.quantizers.base import masked_mean
from hook.registry import MODELS

_STD = 0.02  # of new weights
SHAREABLE = ("embeds", "heads")


@MODELS.register_module()
class CodeTransformer(BaseModule):
    """Transformer that predicts codes one after the other, row by row: one code per position.

    The first token is the condition, the following ones are the codes of the positions before. A
    map of classes is in addition added to the token that predicts each position.

    Args:
        grid: Height and width (h, w) of the codes.
        codebook_sizes: Number of codes, for each of the Q columns of a position's codes.
        condition: Options of :class:`ConditionEmbedding`.
        embed_dims: Width of the tokens.
        depth: Number of blocks.
        num_heads: Attention heads of a block.
        num_kv_heads: Heads of keys and values, fewer to save memory; None: as many.
        mlp_multiple: The hidden width of the feed-forward layers (SwiGLU), 8/3 of ``embed_dims``,
            is rounded up to a multiple of this.
        adaptive_norm: The condition also scales, shifts and gates all blocks (AdaLN), as in IBQ.
        gate_init: Factor of the initial weights of the gates of AdaLN.
        start_rotary: Rotary position of the first token: ``"identity"`` does not turn it;
            ``"zero"`` is the official row of zeros (:func:`rotary_table`).
        drop_rate: Dropout of embedded codes and of the results of all layers.
        shared: What all codes of a position have in common, of ``"embeds"`` (one table, as their
            quantizer may have) and ``"heads"``.
        sampling: Options of :class:`CodeSampling`.
        init_cfg: MMEngine's initialisation config.

    Attributes:
        target: ``"codes"``, what the network learns.
        grid: As above.
        condition_grid: Grid of the positions of a map.

    Raises:
        ConfigError: The options do not fit each other.

    Reference:
        Shi et al., "Scalable image tokenization with index backpropagation quantization", ICCV
        2025, arXiv:2412.02692; blocks of Touvron et al., "Llama", 2023, arXiv:2302.13971.
    """

    target = "codes"
    columns: int | None = 1  # codes of a position; None: any number

    def __init__(
        self,
        grid: Sequence[int],
        codebook_sizes: Sequence[int],
        condition: dict | None = None,
        embed_dims: int = 256,
        depth: int = 6,
        num_heads: int = 8,
        num_kv_heads: int | None = None,
        mlp_multiple: int = 64,
        adaptive_norm: bool = False,
        gate_init: float = 1e-3,
        start_rotary: str = "identity",
        drop_rate: float = 0.0,
        shared: Sequence[str] = (),
        sampling: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.shared = tuple(shared)
        if not {*self.shared} <= {*SHAREABLE}:
            raise ConfigError(
                "model.network.shared is unknown",
                expected=f"some of {', '.join(SHAREABLE)}",
                found=shared,
                remedy="name only these, or ()",
            )
        self.grid = self.condition_grid = tuple(grid)
        self.codebook_sizes, self.embed_dims = tuple(codebook_sizes), embed_dims
        if self.columns not in (None, len(self.codebook_sizes)):
            raise ConfigError(
                f"model.network: {type(self).__name__} does not fit the codes of the quantizer",
                expected=f"{self.columns} code(s) per position",
                found=f"codebook sizes {self.codebook_sizes}",
                remedy="choose hook.FactorizedTransformer for the factors of a code, "
                "hook.DepthTransformer for codes that refine each other",
            )
        self._sizes = num_heads, num_kv_heads, mlp_multiple, drop_rate
        names = GATES_FIRST if adaptive_norm else ()
        self.condition = ConditionEmbedding(embed_dims, **(condition or {}))
        self.embeds = self._make_embeds()
        self.drop = nn.Dropout(drop_rate)
        self.blocks = nn.ModuleList(self._make_block(names) for _ in range(depth))
        self.norms, self.heads = self._make_heads(adaptive_norm)
        table = rotary_table(self.grid, embed_dims // num_heads, start_rotary)
        self.register_buffer("rotary", table, persistent=False)
        self.gate_init = gate_init
        self.sampling = changed(CodeSampling(), sampling or {}, "model.network.sampling")

    # ------------------------------------------------------------------------------ parts
    def _norm(self) -> nn.Module:
        return nn.RMSNorm(self.embed_dims, eps=1e-5)

    def _make_block(self, names: tuple[str, ...] = ()) -> Block:
        num_heads, num_kv_heads, mlp_multiple, drop_rate = self._sizes
        width = self.embed_dims
        hidden = -(-int(8 * width / 3) // mlp_multiple) * mlp_multiple
        return Block(
            Attention(width, num_heads, num_kv_heads),
            SwiGLU(width, hidden, bias=False),
            (self._norm(), self._norm()),
            Modulation(width, names) if names else None,
            drop_rate,
        )

    def _make_embeds(self) -> nn.ModuleList:
        """Build the tables of the columns of the codes."""
        sizes = [self._one_size()] if "embeds" in self.shared else self.codebook_sizes
        return nn.ModuleList(nn.Embedding(size, self.embed_dims) for size in sizes)

    def _make_heads(self, adaptive_norm: bool) -> tuple[nn.ModuleList, nn.ModuleList]:
        """Build the norms in front of the heads, and the heads."""
        names = ("scale", "shift")
        norm = FinalNorm(
            self._norm(), Modulation(self.embed_dims, names) if adaptive_norm else None
        )
        sizes = [self._one_size()] if "heads" in self.shared else self.codebook_sizes
        heads = (nn.Linear(self.embed_dims, size, bias=False) for size in sizes)
        return nn.ModuleList([norm]), nn.ModuleList(heads)

    def _one_size(self) -> int:
        """Return the number of codes of all columns."""
        if len(set(self.codebook_sizes)) > 1:
            raise ConfigError(
                "model.network: columns of different numbers of codes share no table",
                expected="shared=()",
                found=f"codebook sizes {self.codebook_sizes}, shared={self.shared}",
                remedy="share nothing",
            )
        return self.codebook_sizes[0]

    def _head(self, column: int) -> nn.Linear:
        """Return the head of a column of the codes."""
        return self.heads[min(column, len(self.heads) - 1)]

    def init_weights(self) -> None:
        """Draw new weights; heads start at zero, so that all codes are equally likely at first."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=_STD)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        with torch.no_grad():
            for module in (one for one in self.modules() if isinstance(one, Modulation)):
                for name, rows in zip(
                    module.names, module[1].weight.chunk(len(module.names)), strict=True
                ):
                    rows.mul_(self.gate_init if name.startswith("gate") else 0.5)
        for head in self.heads:
            nn.init.zeros_(head.weight)
        self._is_init = True

    @property
    def length(self) -> int:
        """Number of tokens of a tile."""
        return self.grid[0] * self.grid[1]

    # ------------------------------------------------------------------------------ passes
    def embed(self, codes: Tensor) -> Tensor:
        """Return the tokens (..., D) of codes (..., Q): the sum of the rows of their tables."""
        return self.drop(
            sum(self._table(q)(column) for q, column in enumerate(codes.unbind(dim=-1)))
        )

    def _table(self, column: int) -> nn.Embedding:
        """Return the table of a column of the codes."""
        return self.embeds[min(column, len(self.embeds) - 1)]

    def _run(
        self, x: Tensor, condition: Tensor, position: int, caches: list[Cache] | None
    ) -> Tensor:
        """Run all blocks on the tokens (B, n, D) of the positions from ``position`` on."""
        rotary = self.rotary[:, position : position + x.shape[1]]
        for block, cache in zip(self.blocks, caches or [None] * len(self.blocks), strict=True):
            x = block(x, rotary, condition, cache)
        return x

    def _columns(
        self, x: Tensor, condition: Tensor, position: int, caches: list[Cache] | None
    ) -> Generator[Tensor, Tensor, None]:
        """Yield the logits (B, n, K_q) of one column after the other.

        It is sent the codes (B, n) of each column but the last: in training the true ones of all n
        positions, in sampling those drawn at one position.

        Args:
            x: Tokens (B, n, D) that predict the positions.
            condition: (B, 1, D).
            position: The first of the n positions.
            caches: Of the earlier positions, one per block; None: there are none.
        """
        yield self.heads[0](self.norms[0](self._run(x, condition, position, caches), condition))

    def forward(self, codes: Tensor, labels: Tensor) -> list[Tensor]:
        """Return the logits of each column, (B, N, K_q), given the true codes before.

        Args:
            codes: (B, N, Q) true codes.
            labels: Conditions, see :class:`ConditionEmbedding`.
        """
        start, cells = self.condition(labels)
        x = torch.cat([start, self.embed(codes[:, :-1])], dim=1)
        columns = self._columns(x if cells is None else x + cells, start, 0, None)
        logits = [next(columns)]
        for column in codes.unbind(dim=-1)[:-1]:
            logits.append(columns.send(column))
        return logits

    def loss(self, codes: Tensor, labels: Tensor, valid: Tensor | None = None) -> dict[str, Tensor]:
        """Return the cross entropies of the columns, ``loss_code0`` and so on, in nats.

        Args:
            codes: (B, N, Q) true codes.
            labels: Conditions.
            valid: (B, N) bool, the positions that count; None: all.
        """
        losses = {}
        for q, nats in enumerate(self.code_lengths(codes, labels).unbind(dim=-1)):
            losses[f"loss_code{q}"] = self._column_weight() * masked_mean(nats, valid)
        return losses

    def _column_weight(self) -> float:
        """Return the weight of the loss of a column."""
        return 1.0

    def code_lengths(self, codes: Tensor, labels: Tensor) -> Tensor:
        """Return minus the logarithm of the probability of each code, (B, N, Q), in nats."""
        lengths = [
            F.cross_entropy(logits.float().mT, column, reduction="none")
            for logits, column in zip(self(codes, labels), codes.unbind(dim=-1), strict=True)
        ]
        return torch.stack(lengths, dim=-1)

    @torch.no_grad()
    def sample(
        self,
        labels: Tensor,
        generators: list[torch.Generator] | None = None,
        given: Tensor | None = None,
        **changes,
    ) -> Tensor:
        """Draw codes, with a cache of the earlier positions.

        Args:
            labels: Conditions of B images.
            generators: A random generator for each image; None for temperature 0.
            given: (B, N, Q) codes that are not drawn but taken, -1 where there is none; later
                positions depend on them. None: none.
            **changes: Changes of ``sampling``.

        Returns:
            (B, N, Q) int64.

        Raises:
            ConfigError: An option is invalid, or guidance has no unknown condition.
        """
        options, count = changed(self.sampling, changes), len(self.codebook_sizes)
        sides = [labels, self.condition.unknowns(labels)] if options.guided else [labels]

        def choose(logits: Tensor, position: int, column: int) -> Tensor:
            drawn = draw_codes(logits, options, column, count, generators or [])
            if given is None:
                return drawn
            own = given[:, position, column]
            return drawn.where(own < 0, own)

        return self.walk(torch.cat(sides), choose, len(sides))

    @torch.no_grad()
    def walk(
        self, labels: Tensor, choose: Callable[[Tensor, int, int], Tensor], sides: int = 1
    ) -> Tensor:
        """Go through the codes one after the other, with a cache of the earlier positions.

        Args:
            labels: Conditions of B images, one side of guidance after the other.
            choose: Called with the logits (B, K), the position and the column; returns the
                (B / sides,) codes there.
            sides: Sides of guidance.

        Returns:
            (B / sides, N, Q) int64.
        """
        count = len(self.codebook_sizes)
        start, cells = self.condition(labels)
        caches = [Cache(self.length) for _ in self.blocks]
        x, codes = start, []
        for position in range(self.grid[0] * self.grid[1]):
            if cells is not None:
                x = x + cells[:, position : position + 1]
            columns, chosen = self._columns(x, start, position, caches), []
            logits = next(columns)
            for q in range(count):
                chosen.append(choose(logits[:, 0], position, q))
                if q + 1 < count:
                    logits = columns.send(chosen[-1].repeat(sides)[:, None])
            codes.append(torch.stack(chosen, dim=-1))
            x = self.embed(codes[-1].repeat(sides, 1))[:, None]
        return torch.stack(codes, dim=1)


@MODELS.register_module()
class FactorizedTransformer(CodeTransformer):
    """Transformer over codes of several factors, predicted one after the other (Open-MAGVIT2).

    A first transformer sees a token per position, the sum of the rows of the factors of its code.
    At each position a small second one continues: from the result of the first to the first
    factor, with that to the second factor, and so on (next sub-token prediction).

    Args:
        *args: As of :class:`CodeTransformer`.
        factor_depth: Blocks of the second transformer.
        **options: Further options of :class:`CodeTransformer`, without ``adaptive_norm``.

    Reference:
        Luo et al., "Open-MAGVIT2", 2024, arXiv:2409.04410.
    """

    columns = None

    def __init__(self, *args, factor_depth: int = 2, **options) -> None:
        _no_adaptive_norm(self, options)
        super().__init__(*args, **options)
        if len(self.codebook_sizes) > self.rotary.shape[1]:
            raise ConfigError(
                "model.network: more factors than positions",
                expected=f"at most {self.rotary.shape[1]}",
                found=len(self.codebook_sizes),
                remedy="use larger tiles, or fewer factors",
            )
        self.factor_blocks = nn.ModuleList(self._make_block() for _ in range(factor_depth))

    def _columns(
        self, x: Tensor, condition: Tensor, position: int, caches: list[Cache] | None
    ) -> Generator[Tensor, Tensor, None]:
        x = self._run(x, condition, position, caches)
        shape, x = x.shape[:2], x.flatten(0, 1)[:, None]  # a sequence of its own per position
        factors = [Cache() for _ in self.factor_blocks]
        for column in range(len(self.codebook_sizes)):
            rotary = self.rotary[:, column : column + 1]
            for block, cache in zip(self.factor_blocks, factors, strict=True):
                x = block(x, rotary, cache=cache)
            codes = yield self._head(column)(self.norms[0](x))[:, 0].unflatten(0, shape)
            x = self._table(column)(codes).flatten(0, 1)[:, None]


@MODELS.register_module()
class DepthTransformer(CodeTransformer):
    """Transformer over codes that refine each other, predicted by blocks of growing depth (DnD).

    After some of its blocks a head predicts the next code of the position, whose row is then added
    to the token. So several codes per position cost no longer sequence.

    Args:
        *args: As of :class:`CodeTransformer`.
        head_blocks: The Q blocks (from 0) after which the heads stand, the last block among them;
            None: at even distances up to the last, as in the paper.
        shared: See :class:`CodeTransformer`. One table for all codes is that of the paper, where
            the quantizer has one too; the blocks up to the first head then cannot tell in which
            order the earlier codes came. Norms of heads are not shared.
        **options: Further options of :class:`CodeTransformer`, without ``adaptive_norm``.

    Reference:
        Chen et al., "A spark of vision-language intelligence: 2-dimensional autoregressive
        transformer for efficient fine-grained image generation", ICLR 2025, arXiv:2410.01912.
    """

    columns = None

    def __init__(
        self,
        *args,
        head_blocks: Sequence[int] | None = None,
        shared: Sequence[str] = ("embeds",),
        **options,
    ) -> None:
        _no_adaptive_norm(self, options)
        super().__init__(*args, shared=shared, **options)
        depth, count = len(self.blocks), len(self.codebook_sizes)
        if head_blocks is None:
            step = max(1, min(depth // 6, depth // 2 // max(1, count - 1)))
            head_blocks = range(depth - 1 - step * (count - 1), depth, step)
        self.head_blocks = tuple(head_blocks)
        places = sorted({*self.head_blocks} & {*range(depth)})
        if list(self.head_blocks) != places or len(places) != count or places[-1] != depth - 1:
            raise ConfigError(
                "model.network.head_blocks does not fit the codes and the blocks",
                expected=f"{count} growing numbers up to {depth - 1}, the last block",
                found=self.head_blocks,
                remedy="correct head_blocks, or raise depth",
            )

    def _make_heads(self, adaptive_norm: bool) -> tuple[nn.ModuleList, nn.ModuleList]:
        norms = (FinalNorm(self._norm()) for _ in self.codebook_sizes)
        return nn.ModuleList(norms), super()._make_heads(adaptive_norm)[1]

    def _column_weight(self) -> float:
        return 1 / len(self.codebook_sizes)

    def _columns(
        self, x: Tensor, condition: Tensor, position: int, caches: list[Cache] | None
    ) -> Generator[Tensor, Tensor, None]:
        rotary = self.rotary[:, position : position + x.shape[1]]
        caches, column = caches or [None] * len(self.blocks), 0
        for number, (block, cache) in enumerate(zip(self.blocks, caches, strict=True)):
            x = block(x, rotary, condition, cache)
            if number == self.head_blocks[column]:
                codes = yield self._head(column)(self.norms[column](x))
                x = x + self._table(column)(codes)
                column += 1


@MODELS.register_module()
class FlatTransformer(CodeTransformer):
    """Transformer over all codes of all positions in one sequence, Q times longer.

    The baseline of :class:`DepthTransformer`, of as many weights: each code is a token of its own,
    with the rotary position of its place on the grid, which predicts the next code of the position
    or the first one of the next position.

    Args:
        *args: As of :class:`CodeTransformer`.
        **options: Likewise, without ``adaptive_norm``.
    """

    columns = None

    def __init__(self, *args, **options) -> None:
        _no_adaptive_norm(self, options)
        super().__init__(*args, **options)

    @property
    def length(self) -> int:
        """Number of tokens of a tile."""
        return super().length * len(self.codebook_sizes)

    def _column_weight(self) -> float:
        return 1 / len(self.codebook_sizes)

    def embed(self, codes: Tensor) -> Tensor:
        """Return the tokens (..., D) of the last ones of codes (..., Q)."""
        return self._token(len(self.codebook_sizes) - 1, codes[..., -1])

    def _token(self, column: int, codes: Tensor) -> Tensor:
        return self.drop(self._table(column)(codes))

    def forward(self, codes: Tensor, labels: Tensor) -> list[Tensor]:
        """Return the logits of each column; see the base class."""
        start, cells = self.condition(labels)
        x = torch.cat([start, self.embed(codes[:, :-1])], dim=1)
        tokens = [x if cells is None else x + cells]
        tokens += [self._token(q, column) for q, column in enumerate(codes.unbind(dim=-1)[:-1])]
        # A token that predicts the first code of a position stands at the position before.
        rows = [self.rotary[:, :-1], *[self.rotary[:, 1:]] * (len(tokens) - 1)]
        x, rotary = torch.stack(tokens, dim=2).flatten(1, 2), torch.stack(rows, dim=2).flatten(1, 2)
        for block in self.blocks:
            x = block(x, rotary, start)
        x = self.norms[0](x, start).unflatten(1, (-1, len(tokens)))
        return [self._head(q)(x[:, :, q]) for q in range(len(tokens))]

    def _columns(
        self, x: Tensor, condition: Tensor, position: int, caches: list[Cache] | None
    ) -> Generator[Tensor, Tensor, None]:
        for column in range(len(self.codebook_sizes)):
            x = self._run(x, condition, position + (column > 0), caches)
            codes = yield self._head(column)(self.norms[0](x, condition))
            x = self._token(column, codes)


def _no_adaptive_norm(network: nn.Module, options: dict) -> None:
    if options.get("adaptive_norm"):
        raise ConfigError(
            f"model.network: {type(network).__name__} has no AdaLN",
            expected="adaptive_norm=False",
            found=True,
            remedy="leave adaptive_norm out, or choose hook.CodeTransformer",
        )
