# Run as `/bin/sh -c`, once for each sandbox and user. Standard input: a line with a secret and a name, then
# main.sh and orders. Standard output: the frames of frames.py.
#
# A few loops wait for orders. They are a pipeline in the foreground, since a shell lets what it starts
# with "&" ignore SIGINT for good. The last process of the pipeline, a fresh shell, hands the orders out.
# Descriptors: 3 the stream, 9 whose turn it is to write there, 5 the orders, 7 whose turn it is to read
# them. A turn is one line in a named pipe: read takes it, echo gives it back, neither starts a process.
exec 3>&1 4<&0 2>/dev/null
IFS=' ' read -r mf_k mf_name mf_tools <&4
for mf_t in $mf_tools; do
  command -v "$mf_t" >/dev/null || { printf 'missing %s\n' "$mf_t" >&3; exit 1; }
done
LC_ALL=C dd iflag=fullblock bs=1 count=0 </dev/null >/dev/null ||
  { printf 'missing dd iflag=fullblock\n' >&3; exit 1; }
for mf_t in /dev/shm /tmp /var/tmp /run "$HOME"; do
  d=$mf_t/.megaflow-$mf_name
  mkdir -m 700 "$d" && mkfifo "$d/lock" "$d/turn" "$d/orders" && break
  d=
done
[ "$d" ] || { printf 'missing folder\n' >&3; exit 1; }
exec 9<>"$d/lock" 7<>"$d/turn"
echo >&9
echo >&7

mf_loop() {
  exec 5<"$d/orders" </dev/null 4<&-
  read -r mf_t n </proc/self/stat
  true >"$d/loop.$mf_t"
  while :; do
    read -r mf_t <&7
    read -r n <&5 || { echo >&7; exit 0; }
    echo >&7
    . "$d/$n.q"
  done
}

# The command `c` in the directory `w`, with what mf_env exports, which may be called as our own variables are: none
# of them is used after it. Its standard error too is a stream.
mf_exec() {
  {
    (
      read -r mf_p mf_t </proc/self/stat
      echo "$mf_p" >"$d/$n.p"
      [ "$w" = . ] || cd -- "$w" || { true >"$d/$n.w"; exit 125; }
      set -- "$c" "$d/$n.o" "$d/$n.e" "$(command -v setsid)"
      mf_env
      exec "$4" /bin/sh -c "$1" </dev/null >"$2" 2>"$3" 3>&- 5>&- 6>&- 7>&- 8>&- 9>&-
    )
    mf_finish "$?"
  } 6<>"$d/$n.o" 8<>"$d/$n.e"
  [ "$mf_t" = relays ] || mf_rest
}

# The interpreter `i` with the program `c`, for as long as it lives. Its two named pipes are held open all
# that time: what is written to one that nobody has open is gone.
mf_shell() {
  {
    mf_say "s $n"
    (
      read -r mf_p mf_t </proc/self/stat
      echo "$mf_p" >"$d/$n.p"
      [ "$w" = . ] || cd -- "$w" || exit 125
      set -- "$i" "$c" "$d" "$n" "$(command -v setsid)"
      mf_env
      exec "$5" "$1" -c "$2" "$1" "$3" "$4" </dev/null >/dev/null 2>&1 3>&- 5>&- 6>&- 7>&- 8>&- 9>&-
    )
    mf_t=$?
    true >"$d/$n.z"
    mf_say "z $n $mf_t"
    echo gone >&8
  } 6<>"$d/$n.i" 8<>"$d/$n.r"
  mf_say "i $n"
}

# A command that the shell number $1 finds in the file n.s.
mf_input() {
  {
    read -r mf_t mf_p </proc/uptime
    read -r mf_p mf_p mf_p mf_p mf_p </proc/loadavg
    echo "$mf_t $mf_p" >"$d/$n.t"
    {
      if [ -e "$d/$1.z" ]; then
        mf_t=gone
      else
        echo "$n" 1<>"$d/$1.i"
        read -r mf_t mf_p <&4
      fi
    } 4<>"$d/$1.r"
    [ "$mf_t" != gone ] || { mf_t=0; true >"$d/$n.g"; }
    mf_finish "$mf_t"
  } 6<>"$d/$n.o" 8<>"$d/$n.e"
  [ "$mf_t" = relays ] || mf_rest
}

# Sends how the command ended and what is in its pipes: all of it, up to a marker that goes in now. Where
# relays have taken over the pipes, they do. Writing the marker blocks while a pipe is full: they will.
mf_finish() {
  printf '%sm\n' "$mf_k" >&6
  printf '%sm\n' "$mf_k" >&8
  true >"$d/$n.f"
  echo >&6
  echo >&8
  mf_t=
  [ ! -e "$d/$n.w" ] || mf_t=w
  [ ! -e "$d/$n.g" ] || mf_t=g
  if mf_claim "$n"; then
    read -r mf_p <&9
    printf 'x %s %s %s\n' "$n" "$1" "$mf_t" >&3
    LC_ALL=C dd bs=1048576 count=1 <&6 >&3
    printf '%se' "$mf_k" >&3
    LC_ALL=C dd bs=1048576 count=1 <&8 >&3
    printf '%se' "$mf_k" >&3
    echo >&9
    exec 4<"$d/$n.o" <"$d/$n.e"
  else
    mf_say "y $n $1 $mf_t"
    mf_t=relays
  fi
}

# Who else holds the pipes was left behind by the command, and writes on: that is thrown away, here for a moment, and
# from when mf_void of main.sh says so by a process for each pipe, so that the loop can go on.
mf_rest() {
  mf_drain
  exec 4<&0
  mf_drain
  exec 4<&- </dev/null
  mf_say "i $n"
}

mf_drain() {
  while read -r mf_t <&4; do
    case $mf_t in
    *"mf_void $n") cat <&4 >/dev/null 3>&- 5>&- 7>&- 9>&- & return ;;
    esac
  done
}

mf_claim() {
  set -C
  if { true >"$d/$1.c"; } 2>/dev/null; then set +C; else
    set +C
    return 1
  fi
}

mf_say() {
  read -r mf_p <&9
  printf '%s\n' "$1" >&3
  echo >&9
}

# The block number $2, of 256 KiB, of the file $1.
mf_read() {
  mf_t=ok
  if [ ! -e "$1" ]; then mf_t=missing
  elif [ -d "$1" ]; then mf_t=folder
  elif [ ! -f "$1" ]; then mf_t=special
  elif [ ! -r "$1" ]; then mf_t=denied
  fi
  read -r mf_p <&9
  printf 'd %s %s\n' "$n" "$mf_t" >&3
  [ "$mf_t" != ok ] || LC_ALL=C dd if="$1" iflag=fullblock bs=262144 skip="$2" count=1 >&3
  printf '%se' "$mf_k" >&3
  echo >&9
  mf_say "i $n"
}

# What main.sh put into n.d, at the end ($2 is ">>") or instead of the file $1.
mf_write() {
  mf_t=ok
  if [ -d "$1" ]; then
    mf_t=folder
  else
    case $1 in */*) [ -d "${1%/*}/" ] || mkdir -p -- "${1%/*}/" ;; esac
    [ "$2" ] || true | cat >"$1"
    cat "$d/$n.d" >>"$1" || mf_t="failed $( (true >>"$1") 2>&1)"
  fi
  mf_say "v $n $mf_t"
  mf_say "i $n"
}

mf_grow() {
  mf_loop | mf_loop | mf_loop | mf_loop
  exit 0
}

mf_loop | mf_loop | mf_loop | mf_loop | {
  exec 8>"$d/orders"
  exec 5<&- </dev/null
  export mf_d="$d"
  exec /bin/sh <&4 4<&-
}
# At once, for the relays of main.sh that still look into it.
mv "$d" "$d-over"
rm -rf "$d-over"
