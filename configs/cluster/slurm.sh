#!/bin/bash
# A sweep as an array of Slurm jobs, one agent each; more tasks in the array are more agents.
#
#   SWEEP=configs/sweeps/dsb2018.yaml STORAGE=sweeps/dsb2018 sbatch configs/cluster/slurm.sh
#   WANDB_SWEEP=entity/project/id sbatch configs/cluster/slurm.sh
#
# Several GPUs in a job: --gres=gpu:4 and AGENTS=4 for four runs beside each other, or one run on all
# of them with the arguments --trainer.devices=4 --trainer.strategy=ddp (for W&B: in the file's
# command). Runs that take several nodes, with one agent on the first of them:
#
#   SWEEP=configs/cluster/multinode.yaml STORAGE=sweeps/large \
#     sbatch --nodes=2 --ntasks-per-node=4 --gres=gpu:4 configs/cluster/slurm.sh
#SBATCH --job-name=sweep
#SBATCH --array=0-7
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --gres=gpu:1
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@180
set -u
cd "${SLURM_SUBMIT_DIR:-.}" || exit 1

if [ "${SLURM_JOB_NUM_NODES:-1}" -gt 1 ]; then
  # The sweep's command starts each run with srun: all its processes get the same arguments.
  MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
  export MASTER_ADDR
  export MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
  export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}
else
  # Lightning starts the processes of a run itself, and leaves requeueing to this script.
  export SLURM_JOB_NAME=interactive
fi
if [ -n "${SLURM_ARRAY_JOB_ID:-}" ]; then
  job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
else
  job=$SLURM_JOB_ID
fi
REQUEUE="scontrol requeue $job" exec bash configs/cluster/agent.sh "$@"
