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

agent=''
told=''
tell() {
  told=$1
  if [ -n "$agent" ]; then kill -s "$1" "$agent" 2>/dev/null; fi
}
trap 'tell TERM' TERM
trap 'tell USR1' USR1
bash configs/cluster/agent.sh "$@" &
agent=$!
if [ -n "$told" ]; then tell "$told"; fi # came before there was an agent

WARNING=${WARNING:-180}
timer=''
if [ "${PBS_WALLTIME:-0}" -gt "$WARNING" ]; then
  ( # ends its own sleep, which would keep the job's output open
    trap 'kill "$!"' TERM
    sleep $((PBS_WALLTIME - WARNING)) &
    wait "$!" && kill -s USR1 $$
  ) &
  timer=$!
fi
wait "$agent"
status=$?
while kill -0 "$agent" 2>/dev/null; do # a signal ends `wait`, not the agent
  wait "$agent"
  status=$?
done
if [ -n "$timer" ]; then kill "$timer" 2>/dev/null; fi

if [ "$status" -eq 143 ] && ! qrerun "$PBS_JOBID"; then
  # On many clusters rerunning a job is not its owner's right: one new job goes on instead.
  settings=()
  for name in SWEEP STORAGE WANDB_SWEEP AGENTS WARNING; do
    if [ -n "${!name:-}" ]; then settings+=("$name=${!name}"); fi
  done
  qsub -J 0-0 -v "$(IFS=,; echo "${settings[*]}")" configs/cluster/pbs.sh ||
    echo "not requeued: submit the job again to go on" >&2
fi
exit "$status"
