# What a fresh shell at the end of boot.sh reads first; then orders, which call these. It starts nothing that
# lasts in the foreground, so that an order to kill is carried out at once.
d=$mf_d
unset mf_d
exec 3>&- 7<&-
trap mf_end EXIT

mf_say() {
  read -r mf_p <&9
  printf '%s\n' "$1"
  echo >&9
}

# Hands the order number $1, whose text the format $2 gives, to a loop that is free.
mf_q() {
  if [ ! -e "$d/$1.full" ] && printf "$2" >"$d/$1.q"; then echo "$1" >&8; else mf_say "f $1"; fi
}

# Appends what the format $3 gives to the file $1.$2; the order number $1, which uses it, follows.
mf_put() { printf "$3" >>"$d/$1.$2" || true >"$d/$1.full"; }

# Named pipes for the commands numbered $1 to $2; the files of those numbered before and done with go.
mf_make() {
  mf_i=$1 mf_t=
  while [ "$mf_i" -le "$2" ]; do
    mf_t="$mf_t $d/$mf_i.o $d/$mf_i.e"
    mf_i=$((mf_i + 1))
  done
  mkfifo $mf_t
}

mf_forget() {
  mf_t=
  for mf_i; do mf_t="$mf_t $d/$mf_i.*"; done
  rm -rf $mf_t
}

# A command that runs on, or has filled a pipe: relays read its pipes, and keep $2 bytes or a little more
# of the beginning and of the end.
mf_relays() {
  {
    if mf_claim "$1"; then
      mf_relay "$1" o "$2" &
      mf_relay "$1" e "$2" 6<&5 &
    fi
  } 6<>"$d/$1.o" 5<>"$d/$1.e"
}

mf_claim() {
  set -C
  if { true >"$d/$1.c"; } 2>/dev/null; then set +C; else
    set +C
    return 1
  fi
}

mf_relay() {
  f=$d/$1.$2
  exec 5<&- 8>&-
  part=h total=0 head=0 size=0 last=
  while :; do
    LC_ALL=C dd bs=1048576 count=1 <&6 >>"$f.$part" || exit 1
    size=$(wc -c <"$f.$part") || exit 1
    size=$((size))
    [ -z "$last" ] || break
    # The marker is in the pipe or was read already, but not all may be read: once more, with a line that
    # makes sure there is something.
    if [ -e "$d/$1.f" ]; then
      last=1
      (echo >&6) &
      continue
    fi
    [ -d "$d" ] || exit 1
    [ "$size" -ge "$3" ] || continue
    total=$((total + size))
    case $part in
    h) head=$size part=a ;;
    a) part=b ;;
    b) part=a ;;
    esac
    true >"$f.$part"
    size=0
  done
  total=$((total + size))
  read -r mf_p <&9
  printf 'r %s %s %s %s\n' "$1" "$2" "$total" "$head"
  case $part in
  h) cat "$f.h" ;;
  a) if [ -e "$f.b" ]; then cat "$f.h" "$f.b" "$f.a"; else cat "$f.h" "$f.a"; fi ;;
  b) cat "$f.h" "$f.a" "$f.b" ;;
  esac
  printf '%se' "$mf_k"
  echo >&9
  # See mf_rest in boot.sh.
  exec 4<"$f" 6<&-
  while read -r mf_t <&4; do :; done
  mf_say "j $1"
}

# What still writes to the pipes of a command that is over: into the void, of which the loop that reads them is told
# in the pipes themselves. They may be full.
mf_void() {
  {
    echo "mf_void $1" >&6 &
    echo "mf_void $1" >&4 &
  } 6<>"$d/$1.o" 4<>"$d/$1.e"
}

# The signal $2 to the command numbered $1, with its whole group.
mf_kill() {
  read -r mf_p <"$d/$1.p" || return 0
  kill -s "$2" -- "-$mf_p" || kill -s "$2" "$mf_p"
}

# The signal $3 to what the shell numbered $1 has started since the command numbered $2 began, and SIGTERM to
# the shell as well, which then returns from it. The fields of
# proc_pid_stat(5) after the name, 4 the session and 20 the start, in hundredths of a second.
mf_sweep() {
  [ ! -e "$d/$2.f" ] && read -r mf_s <"$d/$1.p" && read -r mf_u mf_l <"$d/$2.t" || return 0
  mf_u=${mf_u%.*}${mf_u#*.}
  mf_g=$3
  [ "$mf_g" != TERM ] || kill -s TERM "$mf_s"
  for mf_f in /proc/[0-9]*/stat; do
    IFS= read -r mf_t <"$mf_f" || continue
    mf_i=${mf_f#/proc/} mf_i=${mf_i%/stat}
    set -- ${mf_t##*) }
    [ "$4" = "$mf_s" ] && [ "$mf_i" != "$mf_s" ] && [ "${20}" -ge "$mf_u" ] || continue
    # In the same hundredth of a second, what came later has the higher number.
    [ "${20}" -gt "$mf_u" ] || [ "$mf_i" -gt "$mf_l" ] || continue
    kill -s "$mf_g" "$mf_i"
  done
}

# Whether everything here is alive that should be.
mf_beat() {
  for mf_t in "$d"/loop.*; do
    kill -0 "${mf_t##*.}" || { mf_say "b dead"; return; }
  done
  mf_say "b $1"
}

mf_end() {
  for mf_f in "$d"/*.p; do
    mf_t=${mf_f%p}
    [ ! -e "${mf_t}f" ] && [ ! -e "${mf_t}z" ] && read -r mf_p <"$mf_f" && kill -s KILL -- "-$mf_p"
  done
  # Relays whose command will not tell them.
  for mf_f in "$d"/*.c; do
    mf_t=${mf_f%c}
    [ -e "${mf_t}f" ] || {
      true >"${mf_t}f"
      echo 1<>"${mf_t}o"
      echo 1<>"${mf_t}e"
    }
  done
}
