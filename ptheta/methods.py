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
    "mae": "ptheta.selfsup.mae",
    "inpaint": "ptheta.selfsup.inpaint",
    "denoise": "ptheta.selfsup.denoise",
    "colourise": "ptheta.selfsup.colourise",
    "jigsaw": "ptheta.selfsup.jigsaw",
    "rotation": "ptheta.selfsup.rotation",
    "simclr": "ptheta.selfsup.simclr",
    "moco": "ptheta.selfsup.moco",
    "byol": "ptheta.selfsup.byol",
    "vicreg": "ptheta.selfsup.vicreg",
    "dino": "ptheta.selfsup.dino",
    "clip": "ptheta.selfsup.clip",
    "context": "ptheta.segmentation.context",
    "deeplab": "ptheta.segmentation.deeplab",
    "hdc": "ptheta.segmentation.hdc",
    "reinforce": "ptheta.control.reinforce",
    "a2c": "ptheta.control.a2c",
    "trpo": "ptheta.control.trpo",
}

ABOUT: dict[str, str] = {
    "fvsbn": "p(x) as one strictly triangular logistic regression (Frey 1998)",
    "nade": "p(x) with tied weights, O(n·h) a vector (Larochelle & Murray 2011)",
    "made": "p(x) by a masked autoencoder, any depth and ordering (Germain et al. 2015)",
    "orderless": "p(x) in every ordering at once, any part given any other (Uria et al. 2014)",
    "pixelcnn": "p(x) of pictures by gated convolutions, p(x | y) (van den Oord et al. 2016)",
    "transformer": "p(x) by causal attention, any ordering, cached sampling (Pannatier et al. 2024)",
    "rnade": "p(x) of real vectors, mixtures of Gaussians for NADE's conditionals (Uria et al. 2013)",
    "mae": "three quarters of a picture's patches told from the others (He et al. 2022)",
    "inpaint": "a region of a picture told from what is around it (Pathak et al. 2016)",
    "denoise": "the clean picture told from a spoilt one (Vincent et al. 2008)",
    "colourise": "colours told from luminance (Zhang et al. 2016)",
    "jigsaw": "the order of shuffled tiles (Noroozi & Favaro 2016)",
    "rotation": "by which of four angles a picture was turned (Gidaris et al. 2018)",
    "simclr": "two views of a picture are each other's nearest in a batch (Chen et al. 2020)",
    "moco": "a view knows the other among a queue of keys (He et al. 2020)",
    "byol": "one view predicts what a slow teacher says of the other (Grill et al. 2020)",
    "vicreg": "views agree, coordinates vary and do not repeat each other (Bardes et al. 2022)",
    "dino": "pieces are sorted as a slow teacher sorts the whole (Caron et al. 2021)",
    "clip": "a picture and its text are each other's nearest in a batch (Radford et al. 2021)",
    "context": "a label for every pixel, seen 67 places wide by dilated convolutions (Yu & Koltun 2016)",
    "deeplab": "a label for every pixel, of one map read at several rates (Chen et al. 2017, 2018)",
    "hdc": "a label for every pixel, rates without holes, dense upsampling (Wang et al. 2018)",
    "reinforce": "the gradient of the return from whole episodes (Williams 1992)",
    "a2c": "policy and value learned together, many environments (Mnih et al. 2016)",
    "trpo": "the largest step that a bound on the policy's change allows (Schulman et al. 2015)",
}

COMMANDS: dict[str, str] = {
    "ladder": "ptheta.density.ladder",
    "baselines": "ptheta.density.baselines",
    "divergences": "ptheta.density.divergences",
    "dilation": "ptheta.segmentation.dilation",
    "score": "ptheta.segmentation.score",
    "gridworld": "ptheta.control.gridworld",
}
