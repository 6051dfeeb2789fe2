"""A character-level GPT, and English text to train it on: the reference pages of Python itself.

How the model is trained stands in char_gpt.yaml; hf_gpt2.yaml trains another model on this text.

Suffixes name the axes of a tensor: B samples, T characters of a window, C channels (`n_embd`),
V entries of the vocabulary, H heads, D channels of one head (C = H * D).
"""

from pydoc_data.topics import topics
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

VOCAB_SIZE = 96
"""Newline, and the 95 printable characters of ASCII."""


class CharGPT(nn.Module):
    """A decoder-only transformer: rotary positions, pre-norm blocks, GELU, an untied head."""

    def __init__(
        self,
        *,
        vocab_size: int = VOCAB_SIZE,
        n_layer: int = 4,
        n_head: int = 2,
        n_embd: int = 128,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, n_embd)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.Sequential(*(Block(n_embd, n_head, dropout) for _ in range(n_layer)))
        self.norm = nn.LayerNorm(n_embd, bias=False)
        self.head = nn.Linear(n_embd, vocab_size, bias=False)
        self._init_weights(n_layer)

    def _init_weights(self, n_layer: int) -> None:
        """A matrix keeps the variance of its input; what adds to the residual stream is scaled
        down by the number of additions, as in GPT-2."""
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                additions = 2 * n_layer if name.endswith("out.weight") else 1
                nn.init.normal_(weight, std=(weight.shape[1] * additions) ** -0.5)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Characters (B, T), int64, to the logits (B, T, V) of each next character."""
        x_BTC = self.dropout(self.embedding(tokens_BT))
        return self.head(self.norm(self.blocks(x_BTC)))


class Block(nn.Module):
    """Attention and then an MLP, each behind a norm and added to its input."""

    def __init__(self, n_embd: int, n_head: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(n_embd, bias=False)
        self.attention = CausalSelfAttention(n_embd, n_head, dropout)
        self.mlp_norm = nn.LayerNorm(n_embd, bias=False)
        self.mlp = MLP(n_embd, dropout)

    def forward(self, x_BTC: Tensor) -> Tensor:
        x_BTC = x_BTC + self.attention(self.attention_norm(x_BTC))
        return x_BTC + self.mlp(self.mlp_norm(x_BTC))


class CausalSelfAttention(nn.Module):
    """Each character attends to itself and to those before it."""

    def __init__(self, n_embd: int, n_head: int, dropout: float) -> None:
        super().__init__()
        self.n_head = n_head
        self.qkv = nn.Linear(n_embd, 3 * n_embd, bias=False)
        self.out = nn.Linear(n_embd, n_embd, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BTC: Tensor) -> Tensor:
        q_BHTD, k_BHTD, v_BHTD = (
            part_BTC.unflatten(-1, (self.n_head, -1)).transpose(1, 2)
            for part_BTC in self.qkv(x_BTC).chunk(3, dim=-1)
        )
        y_BHTD = F.scaled_dot_product_attention(
            rotate(q_BHTD),
            rotate(k_BHTD),
            v_BHTD,
            dropout_p=self.dropout.p if self.training else 0.0,
            is_causal=True,
        )
        return self.dropout(self.out(y_BHTD.transpose(1, 2).flatten(2)))


def rotate(x_BHTD: Tensor, *, base: float = 1000.0) -> Tensor:
    """Turns pairs of channels by angles that grow with the position, slower from pair to pair.

    A query times a key then depends on their distance only (RoPE, arXiv:2104.09864).
    """
    length, channels = x_BHTD.shape[-2:]
    positions = torch.arange(length, device=x_BHTD.device)
    speeds = base ** -torch.linspace(0, 1, channels // 2, device=x_BHTD.device)
    angles = torch.outer(positions, speeds)
    cos, sin = angles.cos().type_as(x_BHTD), angles.sin().type_as(x_BHTD)
    a, b = x_BHTD.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)


class MLP(nn.Module):
    """Two linear layers around a GELU, four times as wide inside."""

    def __init__(self, n_embd: int, dropout: float) -> None:
        super().__init__()
        self.hidden = nn.Linear(n_embd, 4 * n_embd, bias=False)
        self.out = nn.Linear(4 * n_embd, n_embd, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BTC: Tensor) -> Tensor:
        return self.dropout(self.out(F.gelu(self.hidden(x_BTC))))


def next_char_loss(output: Tensor, label: Tensor) -> Tensor:
    """Mean cross entropy, in nats per character, of logits (B, T, V) for labels (B, T)."""
    return F.cross_entropy(output.flatten(0, 1).float(), label.flatten())


Sample = tuple[Tensor, Tensor] | dict[str, Tensor]


class Windows(Dataset[Sample]):
    """Windows of `block_size` characters, int64, that start `stride` characters apart.

    A sample is (characters, the same moved on by one), or as a dict what Hugging Face models take:
    `labels` equal `input_ids`, for those models move them on themselves.
    """

    def __init__(self, tokens: Tensor, *, block_size: int, stride: int, as_dict: bool) -> None:
        self._windows = tokens.unfold(0, block_size + 1, stride)
        self._as_dict = as_dict

    def __len__(self) -> int:
        return len(self._windows)

    def __getitem__(self, index: int) -> Sample:
        window = self._windows[index]
        if self._as_dict:
            return {"input_ids": window[:-1], "labels": window[:-1]}
        return window[:-1], window[1:]


def text(
    *,
    split: Literal["train", "eval"] = "train",
    block_size: int = 128,
    stride: int | None = None,
    as_dict: bool = False,
) -> Windows:
    """The first nine tenths of the text, or the last; absent, `stride` is `block_size`."""
    tokens = _tokens()
    cut = len(tokens) * 9 // 10
    part = tokens[:cut] if split == "train" else tokens[cut:]
    return Windows(part, block_size=block_size, stride=stride or block_size, as_dict=as_dict)


def _tokens() -> Tensor:
    """Python's reference pages as int64 in 0..95: newline is 0, a space 1, "~" 95."""
    paragraphs = "\n\n".join(topics[name] for name in sorted(topics)).split("\n\n")
    # Some pages contain others; a paragraph that stayed twice could be in both splits.
    unique = "\n\n".join(dict.fromkeys(paragraph.strip("\n") for paragraph in paragraphs))
    codes = torch.frombuffer(bytearray(unique.encode("ascii", "replace")), dtype=torch.uint8)
    return (codes.long() - 31).clamp(min=0)
