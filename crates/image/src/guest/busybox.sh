mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /tmp
hostname strata
ip link set lo up
for nic in /sys/class/net/e*; do
    [ -e "$nic" ] || continue
    nic=${nic##*/}
    ip link set "$nic" up
    # A server that answers does so at once; without one we go on after about three seconds.
    udhcpc -b -S -t 3 -T 1 -i "$nic" -s /etc/udhcpc.script >/dev/null 2>&1
done
export HOME=/root TERM="${TERM:-linux}" ENV=/etc/shrc
cd /root
# A serial line has no size; without one the shell asks the terminal at each prompt.
stty cols 80 rows 24 < /dev/console
# To a script the shell must neither repeat what it is given nor ask for the cursor, which it does while it edits lines;
# without an echo it edits none.
[ "$TERM" != dumb ] || stty -echo < /dev/console
# A script that calls the applets by name reaches us by signal.
trap '/sbin/poweroff' USR2
trap '/sbin/halt' USR1
trap '/sbin/reboot' TERM
while :; do
    setsid cttyhack sh < /dev/console > /dev/console 2>&1 &
    wait $! || wait $!
    /sbin/poweroff
done
