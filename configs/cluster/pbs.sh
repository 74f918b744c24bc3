#!/bin/bash
# A sweep as an array of PBS jobs, one agent each; more of them are more agents.
#
#   qsub -v SWEEP=configs/sweeps/pbs_grid.yaml,STORAGE=sweeps/pbs configs/cluster/pbs.sh
#   qsub -v WANDB_SWEEP=entity/project/id configs/cluster/pbs.sh
#
# Several GPUs in a job: ngpus=4 and -v …,AGENTS=4 for four runs beside each other. PBS sends TERM
# before KILL; your site's kill_delay should leave time for a checkpoint.
#PBS -N sweep
#PBS -J 0-7
#PBS -r y
#PBS -l select=1:ncpus=8:ngpus=1:mem=32gb
#PBS -l walltime=12:00:00
#PBS -j oe
set -u
cd "${PBS_O_WORKDIR:-.}" || exit 1
REQUEUE="qrerun $PBS_JOBID" exec bash configs/cluster/agent.sh "$@"
