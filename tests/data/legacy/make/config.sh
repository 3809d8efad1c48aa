# Sourced by make.sh and use.sh: the config of the run.
c=--config
seen=( # what `synthesize` must be told as well
  $c kub.py:all,best
  $c.data.size=64,64
  $c.background.net.stem_channels=4 $c.background.net.channels=8, $c.background.net.strides=4,
  $c.background.net.full_resolution_channels=4 $c.background.net.encoder_blocks=1
  $c.background.net.code_dim=4 $c.background.net.remat=False
)
# shellcheck disable=SC2034
trained=(
  $c.background.codebook.num_codes=16 $c.background.perceptual.net=None
  $c.background.gan.features=4, $c.background.gan.scales=1
  $c.background.optimizer.learning_rate=0.005 $c.background.ema=0.9
  $c.background.batch_size=2 $c.background.steps=40 $c.background.log_every=5
  $c.background.eval_every=40 $c.background.eval_images=4 $c.background.keep_checkpoints=1
  $c.lesion.sides=32, $c.lesion.limit=2 $c.lesion.width=4 $c.lesion.max_width=4
  $c.lesion.cpu_steps=60 $c.lesion.cpu_steps_per_call=20 $c.lesion.critic_steps=1
  $c.lesion.generator_steps=1 $c.lesion.learning_rate=0.005 $c.lesion.alpha=100 $c.lesion.start=2
  $c.lesion.conv=vendor $c.lesion.log_every=60 $c.lesion.save_every=300
  $c.location.size=64 $c.location.batch_size=2 $c.location.steps=4 $c.location.close_mosaic=1
  $c.location.log_every=2 $c.location.eval_every=4 $c.location.weights=yolo.npz
  $c.location.gains.box=1e-60 $c.location.gains.classes=1e-60 $c.location.gains.bins=1e-60
  $c.danger.size=64,64 $c.danger.width=1 $c.danger.batch_size=2 $c.danger.steps=40
  $c.danger.optimizer.learning_rate=0.02 $c.danger.log_every=10 $c.danger.eval_every=40
)
