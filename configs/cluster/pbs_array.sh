#!/bin/bash
# A sweep as an array of PBS jobs, one agent each; more of them are more agents.
#
#   qsub -v SWEEP=configs/sweeps/pbs_grid.yaml,STORAGE=sweeps/pbs configs/cluster/pbs_array.sh
#   qsub -v WANDB_SWEEP=entity/project/id configs/cluster/pbs_array.sh
#
# Several GPUs in a job: ngpus=4 and -v …,AGENTS=4 for four runs beside each other.
#PBS -N sweep
#PBS -J 0-7
#PBS -r y
#PBS -l select=1:ncpus=8:ngpus=1:mem=32gb
#PBS -l walltime=12:00:00
#PBS -j oe
set -u
cd "${PBS_O_WORKDIR:-.}" || exit 1

# PBS sends TERM some seconds before KILL (kill_delay): warn the agent earlier than that.
WARNING=${WARNING:-180} # seconds before the walltime
agent=
trap 'kill -s TERM "$agent"' TERM
bash configs/cluster/agent.sh "$@" &
agent=$!
if [ -n "${PBS_WALLTIME:-}" ] && [ "$PBS_WALLTIME" -gt "$WARNING" ]; then
  (sleep $((PBS_WALLTIME - WARNING)) && kill -s USR1 "$agent") &
  timer=$!
fi
status=0
while kill -0 "$agent" 2>/dev/null; do
  wait "$agent"
  status=$?
done
if [ -n "${timer:-}" ]; then kill "$timer" 2>/dev/null; fi
if [ "$status" -eq 143 ]; then
  # Rerunning a job takes an operator's rights on many clusters: then one new job goes on instead.
  names=$(for v in SWEEP STORAGE WANDB_SWEEP AGENTS; do
    if [ -n "${!v:-}" ]; then printf '%s=%s,' "$v" "${!v}"; fi
  done)
  qrerun "$PBS_JOBID" || qsub -J 0-0 -v "${names%,}" configs/cluster/pbs_array.sh
fi
exit "$status"
