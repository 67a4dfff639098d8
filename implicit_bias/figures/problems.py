"""The linear problems that several figures share, in words: for captions and for the settings of claims."""

#: Of Fan et al.'s Figures 1 and 2. The data are published, so there is one seed and no spread over seeds to give.
PUBLISHED = "the published Gaussian mixture (10 classes, 25 features, 50 samples a class, noise 1, seed 1)"
MIXTURE = "a Gaussian mixture (10 classes, 25 features, 10 samples a class, noise 1)"
