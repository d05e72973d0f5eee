# mini tuned with seed 6, by bash_scripts/mini/seeds.sh
inherit=mini_full
model_path=checkpoints/mini/seed6/model
training_checkpoints=  # its steps are not made
result_path=results/mini/seed6
