"""What votes, sets of networks and scores are called, in every document and on the terminal."""

VOTES = {
    "base": "base",
    "base_pool": "base, opinion pool of its views",
    "swa": "average of the checkpoints",
    "checkpoints_best": "best checkpoint on validation",
    "checkpoints_mean": "checkpoints, mean of probabilities",
    "checkpoints_pool": "checkpoints, opinion pool",
    "sbend": "sBEND",
    "abend": "aBEND",
    "mean": "mean of probabilities",
    "pool": "opinion pool",
    "weighted": "mean weighted by the collector",
    "weighted_pool": "opinion pool weighted by the collector",
    "greedy": "mean of a greedy choice on validation",
    "best": "best member on validation",
}
VOTES_NOTE = (
    "sBEND: the members' majority vote; aBEND: the label of one member, drawn for each image; opinion pool: the mean "
    "of logits, as probabilities."
)
# votes that are the same for every generator
WITHOUT_MEMBERS = ("base", "base_pool", "swa", "checkpoints_best", "checkpoints_mean", "checkpoints_pool")
NULLS = {  # what a stand-in draws instead of a diffusion's members
    "gaussian": "an independent Gaussian for every coordinate",
    "low_rank_gaussian": "a Gaussian with the checkpoints' covariance",
    "identity": "the checkpoints themselves",
    "average": "the mean of the checkpoints",
    "average16": "means of 16 checkpoints",
    "noise": "the checkpoints' mean with white noise",
    "noised": "checkpoints with noise of a share of each tensor's sd",
    "resample": "checkpoints drawn with replacement",
    "interpolate": "points between two checkpoints",
    "random_latent": "the decoder on Gaussian latents",
    "reconstruction": "checkpoints through the autoencoder and back",
}
SETS = {"base": "base", "swa": "average of the checkpoints", "checkpoints": "checkpoints"}
SCORES = {  # by which other data sets are told
    "max_probability": "largest probability",
    "entropy": "entropy",
    "vote_disagreement": "disagreement of the votes",
    "mutual_information": "mutual information",
    "energy": "energy",
    "max_logit": "largest logit",
}
TABLE3 = {
    "sbend": "sBEND",
    "abend": "aBEND",
    "max": "best member",
    "mean": "mean member",
    "median": "median member",
    "orig_max": "best checkpoint",
    "orig_mean": "mean checkpoint",
    "orig_median": "median checkpoint",
    "potential": "some member right",
}
MEASURES = {  # of diversity and novelty; what two nets of a pair do, then what members are like
    "members": "disagreement of two members",
    "checkpoints": "disagreement of two checkpoints",
    "cross": "disagreement of a member and a checkpoint",
    "eq14_members": "BEND's eq. 14 as printed, members",
    "eq14_checkpoints": "BEND's eq. 14 as printed, checkpoints",
    "eq15": "BEND's eq. 15 as printed",
    "iou_members": "largest error IoU with another member, mean over members",
    "iou_checkpoints": "largest error IoU with another checkpoint, mean over checkpoints",
    "max_iou": "largest error IoU with a checkpoint, mean over members",
    "nearest": "distance to the nearest checkpoint, mean over members",
    "leave_one_out": "distance to the nearest other checkpoint, mean over checkpoints",
    "copy_share": "share of members that are copies of a checkpoint",
    "disagreement": "share of test images labelled otherwise than by the nearest checkpoint, mean over members",
    "disagreement_p10": "the same, 10th percentile over members",
    "spread": "members' standard deviation over the checkpoints'",
    "effective_rank_members": "effective rank of the members' vectors",
    "effective_rank_checkpoints": "effective rank of the checkpoints' vectors",
}
PARTS = {  # of the time
    "t_pre": "training the base",
    "t_collect": "collecting the checkpoints",
    "t_autoencoder": "training the autoencoder",
    "t_diffusion": "training the diffusion",
    "t_sample": "drawing the members",
    "t_evaluate": "evaluating",
    "compile": "compiling, all stages",
}
REST = "stand-ins, tests of copying, loading and saving"
