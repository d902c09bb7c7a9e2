"""Networks: what `model:` may say, and what a network costs. `networks` builds them.

wrn-16-2                      WRN-d-k, any depth d = 6n + 4 >= 10 and width k >= 1 (residual.py)
{wrn-40-2: {dropout: 0.2}}
resnet-18, preact-resnet-18   (residual.py)
lenet, {cnn: {width: 32, dropout: 0.1}}, {mlp: {hidden: [64, 64], dropout: 0.1}}      (small.py)
{two-layer: {width: 10, init: {normal: 0.005}}}      (two_layer.py)
"""
