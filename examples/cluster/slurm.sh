#!/bin/bash
# Two machines with four GPUs each, one process a machine: sbatch examples/cluster/slurm.sh
# Submit it again after a time limit or a lost machine: it goes on from the last saved state.
#SBATCH --job-name=bend
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=16
#SBATCH --time=04:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue

srun --kill-on-bad-exit=1 python launch.py --config=configs/res18_cifar10.py --distributed=auto --workdir=/shared/runs/res18
