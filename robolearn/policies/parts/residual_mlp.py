"""A residual MLP over a flattened chunk: the fastest denoiser, and enough for the state of small tasks.

    h_0 = W_x x + W_c mish(W_o c) + W_t mish(embedding(t)),    h_(i+1) = h_i + V_i mish(U_i LayerNorm(h_i))

and the output is an affine function of LayerNorm(h_n).
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from robolearn.policies.parts.denoiser import Denoiser, TimeEmbedding


class ResidualMlp(Denoiser):
    """See the module's docstring.

    Args:
        actions: A.
        chunk: H.
        condition: To * D numbers of an observation.
        width: of h.
        blocks: n.
        embedding: size of the time embedding.
    """

    def __init__(
        self, actions: int, chunk: int, condition: int, *, width: int = 256, blocks: int = 3, embedding: int = 64
    ) -> None:
        super().__init__()
        self.enter = nn.Linear(chunk * actions, width)
        self.time = TimeEmbedding(embedding)
        self.enter_time = nn.Linear(embedding, width, bias=False)
        self.observation = nn.Linear(condition, width)
        self.enter_observation = nn.Linear(width, width, bias=False)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(blocks))
        self.ups = nn.ModuleList(nn.Linear(width, width) for _ in range(blocks))
        self.downs = nn.ModuleList(nn.Linear(width, width) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        self.leave = nn.Linear(width, chunk * actions)

    def of_time(self, time: Tensor) -> Tensor:
        """(B, width), a term of h_0."""
        out: Tensor = self.enter_time(F.mish(self.time(time)))
        return out

    def of_condition(self, condition: Tensor) -> Tensor:
        """(B, width), a term of h_0."""
        out: Tensor = self.enter_observation(F.mish(self.observation(condition.flatten(1))))
        return out

    def denoise(self, x: Tensor, time: Tensor, condition: Tensor) -> Tensor:
        """(B, H, A)."""
        h = self.enter(x.flatten(1)) + (time + condition)
        for norm, up, down in zip(self.norms, self.ups, self.downs, strict=True):
            h = h + down(F.mish(up(norm(h))))
        out: Tensor = self.leave(self.norm(h))
        return out.view_as(x)
