"""What a published model and one of your own cost, by arithmetic alone: no weights are read or made (docs/cost.md)."""

from hyla.cost import (
    Serving,
    Target,
    count_parameters,
    find_device,
    find_target,
    full_attention_twin,
    model_memory,
    train_flops_per_token,
)
from hyla.train.recipe import HybridRecipe

K, M = 1 << 10, 1 << 20


def describe(target: Target, device_name: str) -> None:
    config, device = target.config, find_device(device_name)
    # The twin has the same sizes with softmax attention in every layer: what the hybrid saves shows beside it.
    twin = full_attention_twin(config)
    parameters, memory, twin_memory = count_parameters(config), model_memory(config), model_memory(twin)
    print(f"\n{target.name}: {parameters.total / 1e9:.2f} B parameters")
    print(f"  training: {train_flops_per_token(config, 4 * K) / 1e9:.2f} GFLOP a token, in texts of 4k")
    print("  context   cache of a sequence   with attention everywhere   seconds a token   with attention everywhere")
    hybrid, full = Serving(config, device), Serving(twin, device)
    for context in (4 * K, 64 * K, M):
        sizes = [each.published_bytes(context) / 1e6 for each in (memory, twin_memory)]
        times = [each.token_seconds(context) for each in (hybrid, full)]
        print(f"  {context:9,} {sizes[0]:18,.1f} MB {sizes[1]:24,.1f} MB {times[0]:17.5f} {times[1]:27.5f}")


def main() -> None:
    # A preset: `hyla inspect` and `hyla cost` know the published sizes by name.
    describe(find_target("kimi-linear-48b-a3b"), "h200")

    # One of your own, from a few numbers: 3 layers of Kimi Delta Attention, then one of MLA, six times.
    recipe = HybridRecipe(
        pattern="KKKM" * 6,
        vocab_size=32768,
        hidden_dim=1024,
        num_heads=8,
        head_dim=128,
        kv_lora_dim=256,
        dense_dim=4096,
        num_experts=32,
        num_experts_per_token=4,
        expert_dim=512,
        shared_dim=512,
    )
    config = recipe.model_config_of(recipe.vocab_size, end_of_text_id=0)
    describe(Target("24 layers of my own", config), "h200")


if __name__ == "__main__":
    main()
