"""The catalogue: every method and every command of a room, by name. The only registry.

A method's module exposes `Config`, `Model` and `Method`; the first line of its docstring is its title.
"""

METHODS: dict[str, str] = {
    "fvsbn": "ptheta.density.fvsbn",
    "nade": "ptheta.density.nade",
    "made": "ptheta.density.made",
    "orderless": "ptheta.density.orderless",
    "pixelcnn": "ptheta.density.pixelcnn",
    "transformer": "ptheta.density.transformer",
    "rnade": "ptheta.density.rnade",
}

ABOUT: dict[str, str] = {
    "fvsbn": "p(x) as one strictly triangular logistic regression (Frey 1998)",
    "nade": "p(x) with tied weights, O(n·h) a vector (Larochelle & Murray 2011)",
    "made": "p(x) by a masked autoencoder, any depth and ordering (Germain et al. 2015)",
    "orderless": "p(x) in every ordering at once, any part given any other (Uria et al. 2014)",
    "pixelcnn": "p(x) of pictures by gated convolutions, p(x | y) (van den Oord et al. 2016)",
    "transformer": "p(x) by causal attention, any ordering, cached sampling (Pannatier et al. 2024)",
    "rnade": "p(x) of real vectors, mixtures of Gaussians for NADE's conditionals (Uria et al. 2013)",
}

COMMANDS: dict[str, str] = {
    "ladder": "ptheta.density.ladder",
    "baselines": "ptheta.density.baselines",
    "divergences": "ptheta.density.divergences",
}
