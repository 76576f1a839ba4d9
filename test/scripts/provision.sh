#!/usr/bin/env bash
# Sets up a pool with ten volumes, a snapshot of each, grows some, and with `down` takes everything away again.
# May be run as often as one likes: what is there already stays as it is.
set -euo pipefail

pool=${POOL:-vmpool}
dir=${DIR:-.}

up() {
  udm pool create "$pool" --data "$dir/data.img" --metadata "$dir/metadata.img" \
    --data-size 2g --metadata-size 32m --low-water 10% --if-not-exists
  for i in $(seq 1 10); do
    udm thin create "$pool" "vm$i" --size 128m --if-not-exists
    udm thin snap "vm$i" "vm$i-before" --read-only --if-not-exists
  done
  for i in 2 4 6; do
    size=$(udm thin list "$pool" -o NAME,SIZE --units b --no-headings | awk -v name="vm$i" '$1 == name { print $2 }')
    [ "$size" -ge 268435456 ] || udm thin resize "vm$i" 256m
  done
  total=$(udm pool status "$pool" -o SIZE --units b --no-headings | tr -d ' ')
  [ "$total" -ge 4294967296 ] || udm pool resize "$pool" 4g
}

down() {
  for i in $(seq 1 10); do
    udm thin delete "vm$i-before" "vm$i" --if-exists --yes
  done
  udm pool remove "$pool" --if-exists
  udm loop detach --all
}

case ${1:-up} in
  up) up ;;
  down) down ;;
  *)
    echo "usage: $0 [up|down]" >&2
    exit 2
    ;;
esac
