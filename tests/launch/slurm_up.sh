#!/bin/bash
# A real Slurm of one node for tests: slurmctld, slurmd and slurmdbd on loopback, as root, without systemd or cgroups.
# Needs once: apt-get install -y slurm-wlm slurmdbd mariadb-server munge
# Two cores whatever there are: tests count on it.
set -e
ROOT=${1:?a folder for the cluster}; H=$(hostname -s)
mkdir -p $ROOT/{state,spool,log,run}; chmod 755 $ROOT
# munge
mkdir -p /run/munge /var/log/munge /var/lib/munge; chown munge:munge /run/munge /var/log/munge /var/lib/munge; chmod 755 /run/munge
[ -s /etc/munge/munge.key ] || /usr/sbin/mungekey --create
chown munge:munge /etc/munge/munge.key; chmod 400 /etc/munge/munge.key
munge -n >/dev/null 2>&1 || runuser -u munge -- /usr/sbin/munged --force
# mariadb: private datadir, loopback only, port 13306
D=$ROOT/mysql
if [ ! -d $D/mysql ]; then mkdir -p $D; chown mysql:mysql $D; mariadb-install-db --user=mysql --datadir=$D --skip-test-db --auth-root-authentication-method=normal >$ROOT/log/mdb_install.log 2>&1; fi
setsid mariadbd --no-defaults --user=mysql --datadir=$D --socket=$D/my.sock --port=13306 --bind-address=127.0.0.1 --pid-file=$D/my.pid --innodb-buffer-pool-size=64M --log-error=$ROOT/log/mariadb.log >/dev/null 2>&1 < /dev/null &
for i in $(seq 100); do mariadb-admin --no-defaults --socket=$D/my.sock ping >/dev/null 2>&1 && break; sleep 0.1; done
mariadb --no-defaults --socket=$D/my.sock -u root -e "create database if not exists slurm_acct_db; create user if not exists 'slurm'@'localhost' identified by 'slurmlocal'; create user if not exists 'slurm'@'127.0.0.1' identified by 'slurmlocal'; grant all on slurm_acct_db.* to 'slurm'@'localhost'; grant all on slurm_acct_db.* to 'slurm'@'127.0.0.1';"
cat > $ROOT/slurmdbd.conf <<CONF
AuthType=auth/munge
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort=16819
SlurmUser=root
PidFile=$ROOT/run/slurmdbd.pid
LogFile=$ROOT/log/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=13306
StorageUser=slurm
StoragePass=slurmlocal
StorageLoc=slurm_acct_db
CONF
chmod 600 $ROOT/slurmdbd.conf
cat > $ROOT/slurm.conf <<CONF
ClusterName=anneal
SlurmctldHost=$H(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=cred_expire=5
SlurmctldPort=16827
SlurmdPort=16828
StateSaveLocation=$ROOT/state
SlurmdSpoolDir=$ROOT/spool
SlurmctldPidFile=$ROOT/run/slurmctld.pid
SlurmdPidFile=$ROOT/run/slurmd.pid
SlurmctldLogFile=$ROOT/log/slurmctld.log
SlurmdLogFile=$ROOT/log/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=5
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=16819
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=5,bf_interval=5,requeue_delay=0
SlurmdParameters=config_overrides
ReturnToService=2
MinJobAge=3600
KillWait=5
NodeName=$H NodeAddr=127.0.0.1 CPUs=2 Boards=1 SocketsPerBoard=1 CoresPerSocket=2 ThreadsPerCore=1 RealMemory=20000 State=UNKNOWN
PartitionName=debug Nodes=$H Default=YES MaxTime=INFINITE State=UP DefMemPerCPU=2000
CONF
export SLURM_CONF=$ROOT/slurm.conf
# slurmdbd looks for its conf next to slurm.conf (SLURM_CONF dir)
/usr/sbin/slurmdbd
for i in $(seq 100); do sacctmgr -n -i list cluster >/dev/null 2>&1 && break; sleep 0.1; done
sacctmgr -n list cluster | grep -q anneal || sacctmgr -i add cluster anneal
/usr/sbin/slurmctld -c -f $ROOT/slurm.conf
for i in $(seq 50); do scontrol ping 2>/dev/null | grep -q UP && break; sleep 0.2; done
/usr/sbin/slurmd -c -N $H -f $ROOT/slurm.conf
for i in $(seq 100); do sinfo -h -o %T 2>/dev/null | grep -q idle && break; sleep 0.2; done
sinfo; echo "export SLURM_CONF=$ROOT/slurm.conf"
