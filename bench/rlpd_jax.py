"""The RLPD update in jitted JAX, for comparison: same mathematics and shapes as ``robolearn.policies.rlpd``.

One call is one compiled program: next actions for the whole batch, a ``lax.scan`` over the critic updates (targets from
a drawn subset of the target ensemble, Adam, Polyak), then one actor and one temperature update. State is donated.
"""

from __future__ import annotations

import functools
import math
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

Tree = Any


def _init(key: Tree, members: int, widths: list[int], layer_norm: bool) -> Tree:
    layers = []
    for i, (a, b) in enumerate(pairwise(widths)):
        key, sub = jax.random.split(key)
        bound = math.sqrt(6.0 / (a + b))
        layer = {"w": jax.random.uniform(sub, (members, a, b), minval=-bound, maxval=bound)}
        layer["b"] = jnp.zeros((members, 1, b))
        if layer_norm and i < len(widths) - 2:
            layer |= {"gain": jnp.ones((members, 1, b)), "offset": jnp.zeros((members, 1, b))}
        layers.append(layer)
    return layers


def _mlp(layers: Tree, x: jax.Array) -> jax.Array:
    h = jnp.broadcast_to(x, (layers[0]["w"].shape[0], *x.shape)) if x.ndim == 2 else x
    for i, layer in enumerate(layers):
        h = h @ layer["w"] + layer["b"]
        if "gain" in layer:
            mean = h.mean(-1, keepdims=True)
            var = jnp.maximum((h * h).mean(-1, keepdims=True) - mean * mean, 0.0)
            h = (h - mean) * lax.rsqrt(var + 1e-6) * layer["gain"] + layer["offset"]
        if i < len(layers) - 1:
            h = jax.nn.relu(h)
    return h


def _adam(params: Tree, grads: Tree, state: Tree, lr: float) -> tuple[Tree, Tree]:
    first, second, step = state
    step = step + 1.0
    first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, grads)
    second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, second, grads)
    a, b = 1.0 - 0.9**step, 1.0 - 0.999**step
    params = jax.tree.map(lambda p, m, v: p - lr * (m / a) / (jnp.sqrt(v / b) + 1e-8), params, first, second)
    return params, (first, second, step)


def _actor(layers: Tree, x: jax.Array, noise: jax.Array) -> tuple[jax.Array, jax.Array]:
    mean, log_std = jnp.split(_mlp(layers, x)[0], 2, axis=-1)
    log_std = jnp.clip(log_std, -20.0, 2.0)
    u = mean + jnp.exp(log_std) * noise
    log_density = -0.5 * noise**2 - log_std - 0.5 * math.log(2.0 * math.pi)
    log_slope = 2.0 * (math.log(2.0) - u - jax.nn.softplus(-2.0 * u))
    return jnp.clip(jnp.tanh(u), -1.0 + 1e-5, 1.0 - 1e-5), (log_density - log_slope).sum(-1)


def init(config: Any, observation: int, action: int, seed: int) -> Tree:
    """State of the learner."""
    key, a, b = jax.random.split(jax.random.key(seed), 3)
    hidden = [config.hidden] * config.layers
    critic = _init(a, config.critics, [observation + action, *hidden, 1], config.layer_norm)
    actor = _init(b, 1, [observation, *hidden, 2 * action], False)
    log_temperature = jnp.array(math.log(config.init_temperature))

    def moments(tree: Tree) -> Tree:
        return (jax.tree.map(jnp.zeros_like, tree), jax.tree.map(jnp.zeros_like, tree), jnp.array(0.0))

    return {
        "key": key,
        "critic": critic,
        "target": jax.tree.map(jnp.copy, critic),
        "actor": actor,
        "log_temperature": log_temperature,
        "adam": {"critic": moments(critic), "actor": moments(actor), "temperature": moments(log_temperature)},
    }


def make_update(config: Any, action_size: int) -> Any:
    """The jitted ``update(state, mean, std, batch) -> state, metrics``."""

    @functools.partial(jax.jit, donate_argnums=0)
    def update(state: Tree, mean: jax.Array, std: jax.Array, batch: Tree) -> tuple[Tree, Tree]:
        key, k_next, k_subset, k_actor = jax.random.split(state["key"], 4)
        limit = config.observation_clip
        x = jnp.clip((batch["observation"] - mean) / std, -limit, limit)
        x_next = jnp.clip((batch["next_observation"] - mean) / std, -limit, limit)
        action = jnp.clip(batch["action"], -1.0 + 1e-5, 1.0 - 1e-5)
        noise = jax.random.normal(k_next, action.shape)
        next_action, log_density = _actor(state["actor"], x_next, noise)
        temperature = jnp.exp(state["log_temperature"])
        bonus = temperature * log_density if config.backup_entropy else jnp.zeros_like(log_density)
        scores = jax.random.uniform(k_subset, (config.utd, config.critics))
        subsets = lax.top_k(scores, config.target_critics)[1]

        def critic_step(carry: Tree, data: Tree) -> tuple[Tree, Tree]:
            critic, target, adam = carry
            inputs, next_inputs, reward, discount, minus, subset = data
            chosen = jax.tree.map(lambda p: p[subset], target)
            value = _mlp(chosen, next_inputs)[:, :, 0].min(0) - minus
            y = reward + config.gamma * discount * value

            def loss_of(params: Tree) -> tuple[jax.Array, jax.Array]:
                q = _mlp(params, inputs)[:, :, 0]
                return ((q - y) ** 2).mean(), q

            (loss, q), grads = jax.value_and_grad(loss_of, has_aux=True)(critic)
            critic, adam = _adam(critic, grads, adam, config.critic_lr)
            target = jax.tree.map(lambda t, p: t + config.tau * (p - t), target, critic)
            return (critic, target, adam), (loss, q.mean(), q.max())

        def split(a: jax.Array) -> jax.Array:
            return a.reshape(config.utd, config.batch, *a.shape[1:])

        inputs, next_inputs = jnp.concatenate([x, action], -1), jnp.concatenate([x_next, next_action], -1)
        data = [split(a) for a in (inputs, next_inputs, batch["reward"], batch["discount"], bonus)]
        carry = (state["critic"], state["target"], state["adam"]["critic"])
        (critic, target, critic_adam), logs = lax.scan(critic_step, carry, (*data, subsets))

        last = x[-config.batch :]
        noise = jax.random.normal(k_actor, (config.batch, action_size))

        def actor_loss(params: Tree) -> tuple[jax.Array, jax.Array]:
            a, log_density = _actor(params, last, noise)
            q = _mlp(critic, jnp.concatenate([last, a], -1))
            return temperature * log_density.mean() - q.mean(), -log_density.mean()

        (loss, entropy), grads = jax.value_and_grad(actor_loss, has_aux=True)(state["actor"])
        actor, actor_adam = _adam(state["actor"], grads, state["adam"]["actor"], config.actor_lr)
        d_temperature = temperature * (entropy - config.target_entropy_per_dim * action_size)
        log_temperature, temperature_adam = _adam(
            state["log_temperature"], d_temperature, state["adam"]["temperature"], config.temperature_lr
        )
        adam = {"critic": critic_adam, "actor": actor_adam, "temperature": temperature_adam}
        new = {"key": key, "critic": critic, "target": target, "actor": actor, "log_temperature": log_temperature}
        metrics = {"critic_loss": logs[0].mean(), "q_mean": logs[1].mean(), "q_max": logs[2].max()}
        return new | {"adam": adam}, metrics | {"actor_loss": loss, "entropy": entropy, "temperature": temperature}

    return update
