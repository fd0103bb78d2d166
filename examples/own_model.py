"""A mixer of Hyla inside a PyTorch model of your own: train it, then run it token by token (docs/layers.md)."""

import torch
from torch import nn

import hyla.layers

VOCABULARY, WIDTH = 64, 48


class Block(nn.Module):
    """Norm and residual around a mixer are yours; the mixer takes [B, T, WIDTH] and returns as much."""

    def __init__(self):
        super().__init__()
        self.norm = nn.RMSNorm(WIDTH)
        # Kimi Delta Attention: its memory is 2 heads x 16 x 24 numbers, however long the text.
        self.mixer = hyla.layers.KDA(WIDTH, num_heads=2, key_dim=16, value_dim=24)
        self.mlp = nn.Sequential(nn.RMSNorm(WIDTH), nn.Linear(WIDTH, 3 * WIDTH), nn.GELU(), nn.Linear(3 * WIDTH, WIDTH))

    def forward(self, x, cache=None):
        x = x + self.mixer(self.norm(x), cache=cache)
        return x + self.mlp(x)


class TinyModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)

    def forward(self, tokens, caches=(None, None)):
        x = self.embed(tokens)
        for block, cache in zip(self.blocks, caches):
            x = block(x, cache)
        return self.head(x)


def main() -> None:
    torch.manual_seed(0)
    model = TinyModel()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    # To learn: the first 8 tokens come again and again, so the model must remember them.
    tokens = torch.randint(VOCABULARY, (8, 8)).repeat(1, 6)
    for step in range(30):
        loss = nn.functional.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 10 == 0 or step == 29:
            print(f"step {step:2}: loss {loss.item():.3f}")

    # Token by token: each mixer keeps its state in a cache of its own, without gradients.
    model.eval()
    with torch.no_grad():
        whole = model(tokens[:2])
        caches = [block.mixer.new_cache(2) for block in model.blocks]
        steps = [model(tokens[:2, t : t + 1], caches) for t in range(tokens.shape[1])]
    same = torch.equal(torch.cat(steps, dim=1).argmax(-1), whole.argmax(-1))
    print(f"token by token, the model chooses {'the same' if same else 'OTHER'} tokens as over the whole text")
    print(f"a sequence keeps {caches[0].nbytes // 2:,} bytes in each layer, however long it is")


if __name__ == "__main__":
    main()
