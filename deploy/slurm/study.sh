#!/bin/bash
# One study as a job that may be taken away: it goes on where it was, on any node. Its
# workers are jobs of their own.
#
#   export KYTHERA_STORE=postgresql://me@database/kythera KYTHERA_FILES=$HOME/kythera
#   sbatch --partition=spot deploy/slurm/study.sh telescope --name first --trials 4000
#
#SBATCH --job-name=kythera-study
#SBATCH --cpus-per-task=1
#SBATCH --mem=2G
#SBATCH --time=24:00:00
#SBATCH --output=kythera-study-%j.log
#SBATCH --open-mode=append
# Preempted, or of a node that fails: back into the queue.
#SBATCH --requeue
# A minute before the time is up, the shell alone is told; so it is on preemption.
#SBATCH --signal=B:TERM@60
set -u

workers=${KYTHERA_WORKERS:-slurm:jobs=4,cores=1,memory=2GB,walltime=01:00:00}

kythera optimise "$@" --resume --executor "$workers" &
study=$!
trap 'kill -TERM "$study" 2>/dev/null' TERM
wait "$study"
status=$?
# A signal ends `wait`, not the study, which now keeps what was computed.
while kill -0 "$study" 2>/dev/null; do
  wait "$study"
  status=$?
done

# 130: it was asked to stop. After a preemption the job is in the queue again already, and
# one that was cancelled is to stay away; at the end of its time, when it still counts as
# running, it has to go there itself.
state=$(squeue --noheader --jobs "$SLURM_JOB_ID" --format %T)
if [ "$status" -eq 130 ] && [ "$state" = RUNNING ]; then
  scontrol requeue "$SLURM_JOB_ID" || true
fi
exit "$status"
