"""Small networks over time: speakers, waves, recurrence, tokens.

What for: kinds of networks that `reverie bench coverage` and the tests cut. Only PyTorch is imported, so a fresh
process without Reverie can build them from this file alone.

Sources: TDNN, Snyder et al. 2018, doi:10.1109/ICASSP.2018.8461375; ECAPA, Desplanques et al. 2020, arXiv:2005.07143;
raw waveforms, Jung et al. 2020, arXiv:2004.00526; wav2vec 2.0, Baevski et al. 2020, arXiv:2006.11477; HiFi-GAN, Kong et
al. 2020, arXiv:2010.05646; ConvGRU, Ballas et al. 2015, arXiv:1511.06432.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = [
    "ConvGru",
    "ConvLstm",
    "Ecapa",
    "Gru",
    "RawSpeaker",
    "Tdnn",
    "TokenDecoder",
    "TokenEncoder",
    "Vocoder",
    "Waves",
]


class Tdnn(nn.Module):
    """Dilated convolutions over time, mean and deviation, an embedding.

    Shapes: features (n, 20, t) -> logits (n, 6).
    """

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.frames = nn.Sequential(
            *(
                nn.Sequential(nn.Conv1d(inp, out, kernel, dilation=dilation), nn.ReLU(), nn.BatchNorm1d(out))
                for inp, out, kernel, dilation in (
                    (20, width, 5, 1), (width, width, 3, 2), (width, width, 3, 3), (width, 3 * width, 1, 1),
                )
            )
        )  # fmt: skip
        self.embed, self.bn = nn.Linear(6 * width, width), nn.BatchNorm1d(width)
        self.head = nn.Linear(width, 6)

    def forward(self, x: Tensor) -> Tensor:
        """One score per speaker."""
        x = self.frames(x)
        return self.head(F.relu(self.bn(self.embed(torch.cat([x.mean(2), x.std(2)], 1)))))


class Res2(nn.Module):
    """Channels in parts; each part adds the one before it and is convolved."""

    def __init__(self, width: int, dilation: int, scale: int = 4) -> None:
        super().__init__()
        part = width // scale
        self.width = part
        self.convs = nn.ModuleList(
            nn.Conv1d(part, part, 3, dilation=dilation, padding=dilation) for _ in range(scale - 1)
        )
        self.bns = nn.ModuleList(nn.BatchNorm1d(part) for _ in range(scale - 1))

    def forward(self, x: Tensor) -> Tensor:
        """Features of the same shape."""
        first, *parts = torch.split(x, self.width, 1)
        done = [first]
        for index, (part, conv, bn) in enumerate(zip(parts, self.convs, self.bns, strict=True)):
            done.append(bn(F.relu(conv(part if index == 0 else part + done[-1]))))
        return torch.cat(done, 1)


class SqueezeRes2(nn.Module):
    """Pointwise convolution, Res2, pointwise convolution, squeeze and excitation, residual."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.enter, self.bn1 = nn.Conv1d(width, width, 1), nn.BatchNorm1d(width)
        self.res2 = Res2(width, dilation)
        self.leave, self.bn2 = nn.Conv1d(width, width, 1), nn.BatchNorm1d(width)
        self.squeeze, self.excite = nn.Conv1d(width, width // 2, 1), nn.Conv1d(width // 2, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Features of the same shape."""
        inner = self.bn2(F.relu(self.leave(self.res2(self.bn1(F.relu(self.enter(x)))))))
        gate = self.excite(F.relu(self.squeeze(inner.mean(2, keepdim=True)))).sigmoid()
        return x + inner * gate


class Ecapa(nn.Module):
    """Res2 blocks with gates, all levels joined, statistics weighted by attention.

    Shapes: features (n, 20, t) -> embeddings (n, 12).
    """

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv1d(20, width, 5, padding=2), nn.BatchNorm1d(width)
        self.blocks = nn.ModuleList(SqueezeRes2(width, dilation) for dilation in (2, 3, 4))
        self.join = nn.Conv1d(3 * width, 2 * width, 1)
        self.attend = nn.Sequential(
            nn.Conv1d(6 * width, 8, 1), nn.ReLU(), nn.BatchNorm1d(8), nn.Tanh(), nn.Conv1d(8, 2 * width, 1)
        )
        self.bn2, self.embed = nn.BatchNorm1d(4 * width), nn.Linear(4 * width, 12)

    def forward(self, x: Tensor) -> Tensor:
        """Embeddings."""
        x = self.bn(F.relu(self.stem(x)))
        levels = []
        for block in self.blocks:
            x = block(x)
            levels.append(x)
        x = F.relu(self.join(torch.cat(levels, 1)))
        time = x.shape[-1]
        whole = [x, x.mean(2, keepdim=True).repeat(1, 1, time), x.std(2, keepdim=True).repeat(1, 1, time)]
        weights = self.attend(torch.cat(whole, 1)).softmax(2)
        mean = (x * weights).sum(2)
        deviation = ((x * x * weights).sum(2) - mean * mean).clamp(min=1e-6).sqrt()
        return self.embed(self.bn2(torch.cat([mean, deviation], 1)))


class RawSpeaker(nn.Module):
    """Learned filters on the waveform, residual blocks with feature scaling, a GRU.

    Shapes: waves (n, 1, t) -> embeddings (n, 8).
    """

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.filters, self.bn = nn.Conv1d(1, width, 11, 5), nn.BatchNorm1d(width)
        self.conv1, self.conv2 = nn.Conv1d(width, width, 3, padding=1), nn.Conv1d(width, width, 3, padding=1)
        self.bn1, self.scale = nn.BatchNorm1d(width), nn.Linear(width, width)
        self.gru, self.embed = nn.GRU(width, 16, batch_first=True), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        """Embeddings."""
        x = F.max_pool1d(F.leaky_relu(self.bn(self.filters(x).abs())), 3)
        x = x + self.conv2(F.leaky_relu(self.bn1(self.conv1(x))))
        gate = self.scale(F.adaptive_avg_pool1d(x, 1).flatten(1)).sigmoid().unsqueeze(-1)
        last, _ = self.gru((x * gate + gate).transpose(1, 2))
        return self.embed(last[:, -1])


class Waves(nn.Module):
    """Convolutions with group normalization over a waveform, positions by convolution, a transformer.

    Shapes: waves (n, 1, t) -> features (n, frames, 10).
    """

    def __init__(self, width: int = 16, heads: int = 4) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv1d(1, width, 10, 5, bias=False), nn.GroupNorm(width, width)
        self.conv2, self.norm2 = nn.Conv1d(width, width, 3, 2, bias=False), nn.LayerNorm(width)
        self.project = nn.Linear(width, 24)
        self.positions = nn.utils.parametrizations.weight_norm(nn.Conv1d(24, 24, 8, padding=4, groups=4), dim=2)
        layer = nn.TransformerEncoderLayer(24, heads, 32, 0.1, "gelu", batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        """One feature vector per frame."""
        x = F.gelu(self.conv2(F.gelu(self.norm1(self.conv1(x)))))
        x = self.project(self.norm2(x.transpose(1, 2)))
        x = x + F.gelu(self.positions(x.transpose(1, 2))[..., :-1]).transpose(1, 2)
        return self.head(self.encoder(x))


class Vocoder(nn.Module):
    """Spectrogram to waveform: transposed convolutions, each followed by residual branches of several kernels.

    Shapes: spectra (n, 20, t) -> waves (n, 1, 8 t).
    """

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        normed = nn.utils.parametrizations.weight_norm
        self.enter = normed(nn.Conv1d(20, width, 7, padding=3))
        self.ups = nn.ModuleList(
            normed(nn.ConvTranspose1d(width // 2**i, width // 2 ** (i + 1), 2 * rate, rate, rate // 2))
            for i, rate in enumerate((4, 2))
        )
        self.branches = nn.ModuleList(
            nn.ModuleList(nn.Conv1d(width // 2 ** (i + 1), width // 2 ** (i + 1), k, padding=k // 2) for k in (3, 5))
            for i in range(2)
        )
        self.leave = normed(nn.Conv1d(width // 4, 1, 7, padding=3))

    def forward(self, x: Tensor) -> Tensor:
        """The waveform in [-1, 1]."""
        x = self.enter(x)
        for up, branches in zip(self.ups, self.branches, strict=True):
            x = up(F.leaky_relu(x, 0.1))
            parts = [x + branch(F.leaky_relu(x, 0.1)) for branch in branches.children()]
            x = sum(parts[1:], parts[0]) / len(parts)
        return torch.tanh(self.leave(F.leaky_relu(x)))


class ConvLstm(nn.Module):
    """A convolutional network sees every frame of a video; a bidirectional LSTM reads what it saw.

    Shapes: videos (n, frames, 3, h, w) -> logits (n, 5).
    """

    def __init__(self, width: int = 12, hidden: int = 16) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, width, 3, 2, 1), nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, 2 * width, 3, 2, 1)
        self.lstm = nn.LSTM(2 * width, hidden, num_layers=2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * hidden, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        n, frames = x.shape[:2]
        seen = F.relu(self.conv2(F.relu(self.bn1(self.conv1(x.flatten(0, 1)))))).mean((2, 3))
        read, _ = self.lstm(seen.view(n, frames, -1))
        return self.head(read.mean(1))


class Gru(nn.Module):
    """Convolutions over time, then a GRU cell stepped by hand, as in small streaming recognizers.

    Shapes: features (n, t, 10) -> logits (n, 5).
    """

    def __init__(self, width: int = 12, hidden: int = 16) -> None:
        super().__init__()
        self.conv, self.cell, self.head = nn.Conv1d(10, width, 3), nn.GRUCell(width, hidden), nn.Linear(hidden, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Logits after the last step."""
        x = F.relu(self.conv(x.transpose(1, 2)))
        state = x.new_zeros(x.shape[0], self.cell.hidden_size)
        for step in x.unbind(-1):
            state = self.cell(step, state)
        return self.head(state)


class ConvGru(nn.Module):
    """A recurrent state that is a feature map.

    Shapes: videos (n, frames, 3, h, w) -> masks (n, 2, h, w).
    """

    def __init__(self, width: int = 8, hidden: int = 12) -> None:
        super().__init__()
        self.hidden = hidden
        self.encode = nn.Conv2d(3, width, 3, padding=1)
        self.gates = nn.Conv2d(width + hidden, 2 * hidden, 3, padding=1)
        self.candidate = nn.Conv2d(width + hidden, hidden, 3, padding=1)
        self.head = nn.Conv2d(hidden, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Scores after the last frame."""
        state = torch.zeros(x.shape[0], self.hidden, *x.shape[3:], dtype=x.dtype, device=x.device)
        for index in range(x.shape[1]):
            seen = F.relu(self.encode(x[:, index]))
            reset, update = self.gates(torch.cat([seen, state], 1)).sigmoid().chunk(2, 1)
            fresh = torch.tanh(self.candidate(torch.cat([seen, reset * state], 1)))
            state = (1 - update) * state + update * fresh
        return self.head(state)


class TokenEncoder(nn.Module):
    """A masked transformer: embeddings of token, position and segment are added; two heads, one tied.

    Shapes: tokens (n, 12) of 30, segments (n, 12) of 2 -> (n, 12, 30), (n, 3).
    """

    def __init__(self, width: int = 24, heads: int = 4, vocabulary: int = 30, depth: int = 2) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(12, width)
        self.segments, self.norm = nn.Embedding(2, width), nn.LayerNorm(width)
        layer = nn.TransformerEncoderLayer(width, heads, 2 * width, 0.1, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.transform, self.bias = nn.Linear(width, width), nn.Parameter(torch.zeros(vocabulary))
        self.pooler, self.relation = nn.Linear(width, width), nn.Linear(width, 3)

    def forward(self, tokens: Tensor, segments: Tensor) -> tuple[Tensor, Tensor]:
        """Scores of every token, and of the relation."""
        places = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.norm(self.tokens(tokens) + self.positions(places) + self.segments(segments))
        x = self.encoder(x)
        scores = F.linear(F.gelu(self.transform(x)), self.tokens.weight, self.bias)
        return scores, self.relation(torch.tanh(self.pooler(x[:, 0])))


class Causal(nn.Module):
    """Causal attention with fewer keys than queries, root-mean-square norms, a gated perceptron."""

    def __init__(self, width: int, heads: int, shared: int) -> None:
        super().__init__()
        self.heads, self.shared, self.head_width = heads, shared, width // heads
        self.norm1, self.norm2 = nn.RMSNorm(width), nn.RMSNorm(width)
        self.q = nn.Linear(width, heads * self.head_width, bias=False)
        self.k = nn.Linear(width, shared * self.head_width, bias=False)
        self.v = nn.Linear(width, shared * self.head_width, bias=False)
        self.out = nn.Linear(heads * self.head_width, width, bias=False)
        self.gate, self.up = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, 3 * width, bias=False)
        self.down = nn.Linear(3 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens of the same shape."""
        n, t, _ = x.shape
        ready = self.norm1(x)
        q = self.q(ready).view(n, t, self.heads, -1).transpose(1, 2)
        k = self.k(ready).view(n, t, self.shared, -1).transpose(1, 2)
        v = self.v(ready).view(n, t, self.shared, -1).transpose(1, 2)
        k, v = (one.repeat_interleave(self.heads // self.shared, 1) for one in (k, v))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        ready = self.norm2(x)
        return x + self.down(F.silu(self.gate(ready)) * self.up(ready))


class TokenDecoder(nn.Module):
    """An autoregressive transformer over codes of several books, one embedding and one head per book.

    Shapes: codes (n, t, books) -> scores (n, t, books, 20).
    """

    def __init__(self, width: int = 24, heads: int = 4, books: int = 3, codes: int = 20) -> None:
        super().__init__()
        self.embeds = nn.ModuleList(nn.Embedding(codes, width) for _ in range(books))
        self.places = nn.Parameter(0.02 * torch.randn(1, 16, width))
        self.blocks = nn.ModuleList(Causal(width, heads, heads // 2) for _ in range(2))
        self.norm = nn.RMSNorm(width)
        self.heads = nn.ModuleList(nn.Linear(width, codes) for _ in range(books))

    def forward(self, codes: Tensor) -> Tensor:
        """One score per code, book and step."""
        parts = [embed(codes[..., book]) for book, embed in enumerate(self.embeds)]
        x = torch.stack(parts).sum(0) + self.places[:, : codes.shape[1]]
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return torch.stack([head(x) for head in self.heads], 2)
