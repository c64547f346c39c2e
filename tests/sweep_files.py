"""A small sweep file for tests to change."""

SMALL = """\
# Is seven more than five?
name: small
train: {steps: 7}
evaluate: {every: 5, samples: 11}
search: {trials: 3}
arms:
  one:
    model: {name: pixelcnn, layers: 2}
    space:
      optimizer.lr: {low: 1e-4, high: 1e-2, log: true}
  two:
    model: pixeliqn
    space:
      optimizer.name:
        adam: {optimizer.beta1: [0.5, 0.9]}
        sgd:
final: {top: 2, seeds: [5, 11], steps: 13}
"""
