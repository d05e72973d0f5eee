# mini with small samples, for bash_scripts/quickstart.sh.
inherit=mini
result_path=results/mini/quick
attribution_images=120
report_images=60
batch_size=30
