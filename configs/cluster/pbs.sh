#!/bin/bash
# A sweep as an array of PBS jobs, one agent each; more of them are more agents.
#
#   qsub -v SWEEP=configs/sweeps/pbs_grid.yaml,STORAGE=sweeps/pbs configs/cluster/pbs.sh
#   qsub -v WANDB_SWEEP=entity/project/id configs/cluster/pbs.sh
#
# Several GPUs in a job: ngpus=4 and -v …,AGENTS=4 for four runs beside each other. PBS sends TERM
# before KILL; your site's kill_delay should leave time for a checkpoint. Where PBS tells a job its
# walltime (Torque does), it is warned WARNING seconds before that.
#PBS -N sweep
#PBS -J 0-7
#PBS -r y
#PBS -l select=1:ncpus=8:ngpus=1:mem=32gb
#PBS -l walltime=12:00:00
#PBS -j oe
set -u
cd "${PBS_O_WORKDIR:-.}" || exit 1

requeue() {
  qrerun "$PBS_JOBID" && return
  # On many clusters rerunning a job is not its owner's right: one new job goes on instead.
  local settings=() name
  for name in SWEEP STORAGE WANDB_SWEEP AGENTS WARNING; do
    if [ -n "${!name:-}" ]; then settings+=("$name=${!name}"); fi
  done
  qsub -J 0-0 -v "$(IFS=,; echo "${settings[*]}")" configs/cluster/pbs.sh
}
export -f requeue # the agent's shell calls it

export WARNING=${WARNING:-180}
if [ "${PBS_WALLTIME:-0}" -gt "$WARNING" ]; then
  ( # looks every second whether the job is over, so as not to outlive it
    end=$((SECONDS + PBS_WALLTIME - WARNING))
    while [ "$SECONDS" -lt "$end" ]; do
      sleep 1
      kill -0 $$ || exit
    done
    kill -s USR1 $$
  ) >/dev/null 2>&1 &
fi
REQUEUE=requeue exec bash configs/cluster/agent.sh "$@"
